// References: what is done with them on their cards, and masks: of a reference, and of the region where a unit acts.
(window.ipAdapter ??= {}).references = (() => {
    const CARD = ".ip-adapter-card";

    function changeAll(tab, changeList) {
        tab.changeState((state) => {
            for (const unit of state.units) if (unit.images) unit.images = changeList(unit.images);
        });
    }
    function change(tab, key, changeOne) {
        changeAll(tab, (references) => references.map((one) => one.key === key ? changeOne(one) : one));
    }
    function remove(tab, key) {
        changeAll(tab, (references) => references.filter((one) => one.key !== key));
    }
    // By a person, who may undo it.
    function removeByHand(tab, key) {
        ipAdapter.notes.clear(tab);
        const number = (tab.shownUnit.images ?? []).findIndex((one) => one.key === key) + 1;
        ipAdapter.undo.act(tab, `removed reference ${number}`, (state) => {
            for (const unit of state.units) unit.images = unit.images?.filter((one) => one.key !== key);
        });
    }
    function onWeight(event) {
        const card = event.target.matches?.(`${CARD} input`) && event.target.closest(CARD);
        if (!card) return;
        const {value: text, min, max} = event.target, isAt = event.target.closest(".ip-adapter-at");
        const value = text === "" ? 1 : Math.min(max, Math.max(min, text));
        const set = isAt ? {at: value} : {weight: value};
        change(ipAdapter.tabOf(card), card.dataset.key, (reference) => ({...reference, ...set}));
    }
    // "Use its picture": the picture of a unit of ControlNet becomes a reference.
    function answerControlNet(tab, [name]) {
        const number = Number(/\d+/.exec(name ?? "")?.[0]);
        if (Number.isNaN(number)) return [];
        const reference = {key: ipAdapter.newKey(), weight: 1, controlnet: number + 1};
        const {references: most} = tab.facts;
        if ((tab.shownUnit.images?.length ?? 0) >= most) {
            ipAdapter.notes.tellOfMany(tab, [name], `A unit has at most ${most} references. Left out:`);
            return [];
        }
        ipAdapter.units.tick(tab);
        tab.changeShownUnit((unit) => { unit.images = [...(unit.images ?? []), reference]; });
        return [];
    }

    // What img2img begins with is a reference once in a unit at most (editor.py).
    const hasStart = ({images = []}) => images.some((one) => one.start_picture);
    function addStart(tab) {
        if (hasStart(tab.shownUnit) || (tab.shownUnit.images?.length ?? 0) >= tab.facts.references) return;
        ipAdapter.notes.clear(tab);
        ipAdapter.units.tick(tab);
        const reference = {key: ipAdapter.newKey(), weight: 1, start_picture: true};
        tab.changeShownUnit((unit) => { unit.images = [...(unit.images ?? []), reference]; });
    }

    // Masks are painted in a dialog (opened/paint.js), and go to the session as pictures do.

    const painted = {};  // the masks of this page by their keys: addresses
    const referenceOf = ({units}, key) => units.flatMap(({images}) => images ?? []).find((one) => one.key === key);
    // `mask`: its key, or undefined for none. Whether the reference is still there.
    function setMask(tab, key, mask) {
        if (!referenceOf(tab.state, key)) return false;
        const number = (tab.shownUnit.images ?? []).findIndex((one) => one.key === key) + 1;
        const label = mask ? `painted the mask of reference ${number}` : `removed the mask of reference ${number}`;
        ipAdapter.undo.act(tab, label, (state) => { referenceOf(state, key).mask = mask; });
        return true;
    }
    // It may go while the dialog is open: refused by the server, or with what had been pasted or loaded before.
    function tellGone(tab) {
        ipAdapter.notes.tell(tab, "", "The reference is not there any more: add it again, then paint.");
    }
    // The mask as it is. The card has the one that the server has drawn last, which may be one before.
    async function maskOf(tab, card) {
        const {mask} = referenceOf(tab.state, card.dataset.key) ?? {};
        if (!mask) return null;
        if (!painted[mask]) await ipAdapter.waitUntil(() => !card.matches(".ip-adapter-changing"), 5000);
        return painted[mask] ?? card.querySelector(".ip-adapter-mask")?.dataset.mask ?? null;
    }
    async function paintReference(tab, card) {
        const {key} = card.dataset, start = await maskOf(tab, card);
        const background = await ipAdapter.pictures.whole(tab, key) ?? card.querySelector("img").src;
        const paint = await ipAdapter.loadSubject("paint"), {focusOn} = await ipAdapter.loadSubject("regions");
        const answer = await paint({title: "Mask of the reference", background, start, longest: 2048});
        focusOn(tab.element("references"), `[data-key="${key}"] .ip-adapter-mask`);
        if (answer?.isRemoved) setMask(tab, key);
        if (!answer?.file) return;
        const mask = ipAdapter.newKey();
        if (!setMask(tab, key, mask)) return tellGone(tab);
        painted[mask] = URL.createObjectURL(answer.file);
        ipAdapter.pictures.addMask(tab, answer.file, mask);
    }
    async function toggleRegions(tab, card) {
        (await ipAdapter.loadSubject("card_menu")).toggle(tab, card, ".ip-adapter-place");
    }
    async function pressRegion(tab, button) {
        const number = tab.state.shown, {press} = await ipAdapter.loadSubject("regions");
        press(tab, {number}, button.dataset.region);
    }
    function forgetMask(tab, mask) {
        tab.changeState((state) => state.units.forEach((unit) => {
            if (unit.region === mask) delete unit.region;
            unit.images?.forEach((reference) => {
                if (reference.mask === mask) delete reference.mask;
                if (reference.region === mask) delete reference.region;
            });
        }));
    }

    function onClick(event) {
        const button = event.target.closest?.("button"), card = button?.closest(CARD);
        if (!button) return;
        const tab = ipAdapter.tabOf(button);
        if (card && button.matches(".ip-adapter-face")) {
            const isMeant = button.getAttribute("aria-pressed") === "true";
            tab.changeShownUnit((unit) => { unit.face_index = isMeant ? "largest" : button.dataset.face; });
        } else if (card && button.matches(".ip-adapter-negate")) {
            const negate = ({pose, ...reference}) => ({...reference, negative: reference.negative ? undefined : true});
            change(tab, card.dataset.key, negate);
        } else if (card && button.matches(".ip-adapter-pose")) {
            const {key} = card.dataset;  // one of a unit's references at most
            const pose = ({pose: isPose, negative, ...reference}) =>
                reference.key === key ? {...reference, pose: isPose ? undefined : true} : {...reference, negative};
            tab.changeShownUnit((unit) => { unit.images = unit.images.map(pose); });
        } else if (card && button.matches(".ip-adapter-mask")) {
            paintReference(tab, card);
        } else if (card && button.matches(".ip-adapter-place")) {
            toggleRegions(tab, card);
        } else if (card && button.matches(".ip-adapter-remove")) {
            removeByHand(tab, card.dataset.key);
        } else if (button.matches(".ip-adapter-region button")) {
            pressRegion(tab, button);
        } else if (button.matches(".ip-adapter-start")) {
            addStart(tab);
        } else if (button.matches(".ip-adapter-clear")) {
            ipAdapter.notes.clear(tab);
            ipAdapter.undo.act(tab, "removed all references", (state) => { ipAdapter.shownUnit(state).images = []; });
        }
    }
    document.addEventListener("input", onWeight);
    document.addEventListener("click", onClick);
    return {change, remove, setMask, forgetMask, tellGone, answerControlNet, hasStart};
})();

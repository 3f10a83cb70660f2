// What the server draws of the shown unit: the cards of its references, with the region mask and the line about the
// model, and the bars that show how strongly the unit acts on each block; and when the server is asked for them.
(window.ipAdapter ??= {}).drawings = (() => {
    // Cards. The server is asked through a stamp, which comes back with them; where it was too busy to hear, it is
    // asked again.

    function lookOf(state) {
        const {images, crop, encoder, resolution, variant, face_index: face} = ipAdapter.shownUnit(state);
        const references = (images ?? []).map(
            ({key, waiting, negative, pose, mask, region, at}) =>
                [key, waiting, negative, pose, mask, region, at === undefined],
        );
        const seen = references.length ? [crop, resolution, variant, face] : null;
        const regions = state.units.map(({region}) => region);
        return JSON.stringify([state.shown, references, regions, seen, encoder]);
    }
    function noteLook(tab, state) {
        tab.cards.look = lookOf(state);
    }
    function followReferences(tab, state) {
        if (lookOf(state) === tab.cards.look) return;
        noteLook(tab, state);
        tab.element("references").classList.add("ip-adapter-stale");
        ipAdapter.cards.arrange(tab, state);
        drawCards(tab);
    }
    function drawCards(tab, failures = 0) {
        tab.cards.failures = failures;
        tab.cards.model = null;
        tab.cards.stamp = ipAdapter.newKey();
        tab.writeBox("stamp", tab.cards.stamp);
    }

    // The model has changed: by hand, or because the cards came with another one, for which they are drawn already.
    function answerModel(tab, [model, text]) {
        if (model !== tab.cards.model) drawCards(tab);
        const isShown = () => tab.element("model").querySelector("input").value === model;
        ipAdapter.waitUntil(isShown, 2000).then(() => ipAdapter.purpose.draw(tab));
        return [ipAdapter.units.weightRange(tab, {...ipAdapter.shownUnit(JSON.parse(text)), model})];
    }
    // The disk has been looked at again.
    function answerList(tab) {
        ipAdapter.models?.forgetChoices(tab);
        drawCards(tab);
        return [];
    }
    // The list of models gets what the server says of it, as long as nothing else has been asked for since.
    async function answerCards(tab, [model]) {
        const models = await ipAdapter.loadSubject("models").catch(() => null);
        const column = tab.element("references");
        const isOnView = () => {
            ipAdapter.cards.take(tab);
            return ipAdapter.cards.listOf(tab).dataset.stamp === tab.cards.stamp;
        };
        if (await ipAdapter.waitUntil(isOnView, 500)) {
            column.classList.remove("ip-adapter-stale");
            ipAdapter.units.showVariantsControls(tab);
            ipAdapter.truth.noteMasks(tab);
            ipAdapter.purpose.draw(tab);
            fillNumbers(tab, column);
            followDownloads(tab);
            return [models?.settle(tab, model) ?? {__type__: "update"}];
        }
        if (tab.cards.failures < 5) drawCards(tab, tab.cards.failures + 1);
        return [{__type__: "update"}];
    }

    // What the server draws anew takes the focus with it, however late it comes: it goes to the same button, or to the
    // one that is left of a region's.

    const ANEW = ["purposes", "details", "region"];
    // What is among it, as a selector; null for nothing that comes back.
    function selectorIn(tab, element) {
        const place = ANEW.map((name) => tab.element(name)).find((one) => one?.contains(element));
        return place ? ipAdapter.early.selectorOf(element, place) : null;
    }
    function onFocus({target}) {
        for (const tab of Object.values(ipAdapter.page.tabs)) tab.cards.focus = selectorIn(tab, target);
    }
    // A press elsewhere takes the focus away, to the page where nothing else gets it.
    function onPointer({target}) {
        const {activeElement: focused} = document;
        if (focused !== document.body && focused?.contains(target)) return;
        for (const tab of Object.values(ipAdapter.page.tabs)) tab.cards.focus = null;
    }
    function giveFocus(tab) {
        const {focus} = tab.cards, region = tab.element("region");
        if (!focus || document.activeElement !== document.body) return;
        const rest = focus.startsWith(`#${region.id} `) ? region.querySelector("[data-region=draw]") : null;
        (document.querySelector(focus) ?? rest)?.focus({preventScroll: true});
    }
    // A button that is drawn anew while it is pressed is let go in its place, which browsers take for no click; a finger
    // clicks what is there when it is lifted.
    let pressed = null;
    const isClick = ({button, isPrimary, pointerType}) => button === 0 && isPrimary && pointerType === "mouse";
    function onPress(event) {
        if (!isClick(event)) return;
        const {target} = event, button = target.closest?.("button"), tabs = Object.values(ipAdapter.page.tabs);
        const selector = button && tabs.map((tab) => selectorIn(tab, button)).find(Boolean);
        pressed = selector ? {button, selector} : null;
    }
    function onRelease(event) {
        if (!isClick(event)) return;
        const {target} = event, again = pressed && !pressed.button.isConnected ? target.closest?.(pressed.selector) : null;
        pressed = null;
        if (again) ipAdapter.early.press(again);
    }
    // Once, when the page is there.
    function build(tab) {
        const observer = new MutationObserver(() => giveFocus(tab));
        for (const name of ANEW) observer.observe(tab.element(name), {childList: true, subtree: true});
    }

    // A panel that is opened for the first time shows what its model is.
    function onOpened(event) {
        const head = event.target.closest?.(".label-wrap"), tab = head && ipAdapter.tabOf(head);
        if (tab && head.parentElement === tab.panel) showOpened(tab);
    }
    function showOpened(tab) {
        if (tab.cards.stamp === null) drawCards(tab);
    }
    function fillNumbers(tab, column) {
        const references = Object.fromEntries((tab.shownUnit.images ?? []).map((one) => [one.key, one]));
        for (const field of column.querySelectorAll(".ip-adapter-card input")) {
            const {weight, at} = references[field.closest(".ip-adapter-card").dataset.key] ?? {};
            const number = field.closest(".ip-adapter-at") ? at : weight;
            if (field !== document.activeElement) field.value = number ?? field.value;
        }
    }

    // Where a file is missing, there is a card in the place of the line about the model.
    async function followDownloads(tab) {
        const isWanted = tab.element("details").querySelector(".ip-adapter-download[data-active]");
        if (isWanted || ipAdapter.downloads) (await ipAdapter.loadSubject("downloads")).drawn(tab);
    }
    async function onDownloads(event) {
        if (ipAdapter.downloads || !event.target.closest?.(".ip-adapter-download")) return;
        const button = event.target.closest("[data-do]");
        await ipAdapter.loadSubject("downloads");
        button?.click();  // pressed before anybody listened to it
    }
    document.addEventListener("click", onDownloads);

    function redrawAll() {
        for (const tab of Object.values(ipAdapter.page.tabs)) if (tab.panel) drawCards(tab);
    }
    // The line below a model says whether it fits the checkpoint.
    function onCheckpoint() {
        const {page} = ipAdapter;
        if (opts.sd_model_checkpoint === undefined) return;
        const checkpoint = `${opts.sd_model_checkpoint} ${opts.sd_checkpoint_hash}`;
        if (page.checkpoint !== undefined && page.checkpoint !== checkpoint) {
            redrawAll();
        }
        page.checkpoint = checkpoint;
    }

    // Forge's choice of the checkpoint, beside the tabs, tells the page's options nothing: it is compared with what was
    // last followed whenever a field is left or something is pressed.
    const chosenCheckpoint = () => document.querySelector("#quicksettings .model_selection input")?.value;
    let followed = chosenCheckpoint();
    async function followChosen() {
        if (chosenCheckpoint() === undefined) return;
        await ipAdapter.pause(300);  // the field shows what was chosen
        if (chosenCheckpoint() === followed) return;
        followed = chosenCheckpoint();
        for (const wait of [200, 2000]) {  // a busy server hears it later
            await ipAdapter.pause(wait);
            redrawAll();
        }
    }

    // Bars. The server is asked when a slider has come to rest, and not before it has answered the request before.

    const strengthOf = (tab, unit) => JSON.stringify(tab.facts.spread.map((field) => unit[field] ?? null));
    function noteStrength(tab, unit) {
        tab.bars.strength = strengthOf(tab, unit);
    }
    function followStrength(tab, unit) {
        if (strengthOf(tab, unit) !== tab.bars.strength) drawBarsAtRest(tab);
        noteStrength(tab, unit);
    }
    function drawBarsAtRest(tab) {
        clearTimeout(tab.bars.timer);
        tab.bars.isResting = true;
        tab.bars.timer = setTimeout(() => drawBars(tab), 150);
    }
    function drawBars(tab) {
        tab.bars.isResting = false;
        tab.bars.isOutdated = tab.bars.isAwaited;
        tab.bars.isAwaited = true;
        if (!tab.bars.isOutdated) tab.writeBox("spread", ipAdapter.newKey());
    }

    // The model or the weight has changed.
    function answerStrength(tab, [text, ...shown]) {
        drawBarsAtRest(tab);
        ipAdapter.truth.noteShown(tab, shown);
        ipAdapter.truth.draw(tab, JSON.parse(text));
        return [];
    }
    async function answerBars(tab) {
        tab.bars.isAwaited = false;
        if (tab.bars.isOutdated) drawBars(tab);
        await ipAdapter.pause(0);  // the answer is on view
        ipAdapter.truth.showReasons(tab);
        ipAdapter.shares?.follow(tab);
        return [];
    }
    // Those that are on view are of what the unit is now; false where they do not come.
    async function awaitBars(tab) {
        const isThere = () => !tab.bars.isResting && !tab.bars.isAwaited;
        const isDone = await ipAdapter.waitUntil(isThere, 5000);
        await ipAdapter.pause(0);
        return isDone;
    }

    // A job is done, and the host has told the page of it (last_picture.py).
    async function answerMade(tab, [text]) {
        let units = [];
        try {
            units = JSON.parse(text).extra_generation_params["IP-Adapter influence"] ?? [];
        } catch {  // no job of the host's
        }
        if (units.length || ipAdapter.shares) (await ipAdapter.loadSubject("shares")).show(tab, units);
        return [];
    }

    document.addEventListener("click", onOpened);
    document.addEventListener("focusin", onFocus);
    document.addEventListener("pointerdown", onPointer, true);
    document.addEventListener("pointerdown", onPress, true);
    document.addEventListener("pointerup", onRelease, true);
    document.addEventListener("focusout", followChosen);
    document.addEventListener("pointerdown", followChosen);
    onCheckpoint();
    onOptionsChanged(onCheckpoint);
    return {
        build, noteLook, noteStrength, followReferences, followStrength, drawCards, showOpened,
        answerModel, answerList, answerCards, answerStrength, answerBars, answerMade, drawBarsAtRest, awaitBars,
    };
})();

// What a card's ⋯ offers: to enlarge its picture, to move it, to give it a weight and a region of its own, and to spread
// the unit's references over time; and what its region may be.
ipAdapter.card_menu = (() => {
    function button(textContent, onclick) {
        return Object.assign(document.createElement("button"), {type: "button", textContent, onclick});
    }
    const closeIn = (card) => {
        card.querySelectorAll("[aria-expanded=true]").forEach((opener) => opener.setAttribute("aria-expanded", "false"));
        card.querySelector(".ip-adapter-card-menu")?.remove();
    };
    // `by`: the button that opens it, ⋯ or the one for regions. Pressed again it closes it.
    function toggle(tab, card, by = ".ip-adapter-more") {
        const was = card.querySelector(".ip-adapter-card-menu")?.dataset.by;
        closeIn(card);
        if (was !== by) show(tab, card, by, by === ".ip-adapter-more" ? fillMore : fillRegions);
    }
    function show(tab, card, by, fill) {
        const opener = card.querySelector(by), menu = document.createElement("span");
        const close = () => {
            closeIn(card);
            opener.focus({preventScroll: true});
        };
        const add = (text, title, act) => {
            const item = button(text, () => {
                close();
                act();
            });
            item.title = title;
            menu.append(item);
        };
        menu.className = "ip-adapter-card-menu";
        menu.dataset.by = by;
        menu.setAttribute("role", "group");
        menu.setAttribute("aria-label", opener.getAttribute("aria-label"));
        fill(tab, card, add);
        opener.setAttribute("aria-expanded", "true");
        card.append(menu);
        menu.querySelector("button")?.focus({preventScroll: true});
        menu.addEventListener("keydown", (event) => {
            if (event.key !== "Escape") return;
            event.stopPropagation();
            close();
        });
    }
    function fillMore(tab, card, add) {
        const {key} = card.dataset, {state} = tab, images = ipAdapter.shownUnit(state).images ?? [];
        if (card.querySelector("img.ip-adapter-whole")) add("Enlarge", "Look at the whole picture", () => enlarge(tab, card));
        const field = card.querySelector("label");
        if (field?.hidden) add("Weight", "A weight of this reference alone", () => {
            field.hidden = false;
            field.querySelector("input").focus();
        });
        if (card.querySelector(".ip-adapter-mask[aria-pressed=true]")) {
            add("Without mask", "All of the picture counts again", () => ipAdapter.references.setMask(tab, key));
        }
        const {negative, pose} = images.find((one) => one.key === key) ?? {};
        if (!negative && !pose && !card.querySelector(".ip-adapter-place")) {
            add("Region", "Where in the picture it acts", () => show(tab, card, ".ip-adapter-more", fillRegions));
        }
        if (!negative && !pose) addTime(tab, images, add);
        if (images.length > 1) {
            add("Earlier", "One place to the front: Alt+←", () => ipAdapter.moves.step(tab, key, -1));
            add("Later", "One place to the back: Alt+→", () => ipAdapter.moves.step(tab, key, 1));
        }
        state.units.forEach((_, i) => {
            if (i + 1 === state.shown) return;
            add(`Unit ${i + 1}`, "Move it into this unit", () => ipAdapter.moves.move(tab, key, Infinity, i + 1));
        });
    }
    // The unit's references become keyframes, evenly spread in their order, or none.
    function addTime(tab, images, add) {
        const isPositive = (one) => !one.negative && !one.pose, count = images.filter(isPositive).length;
        const setAll = (label, at) => ipAdapter.undo.act(tab, label, (state) => {
            ipAdapter.shownUnit(state).images.filter(isPositive).forEach((one, i) => { one.at = at(i); });
        });
        if (images.some((one) => isPositive(one) && one.at !== undefined)) {
            add("Not over time", "All references act together in every picture again", () => {
                setAll("took the references together again", () => undefined);
            });
        } else if (count > 1) {
            add("Over time", "Each stands at a picture of the batch or film; those between have some of both", () => {
                setAll("spread the references over time", (i) => Number((i / (count - 1)).toFixed(3)));
            });
        }
    }
    // As the line of the unit's region has them (region_line.py).
    function fillRegions(tab, card, add) {
        const {key} = card.dataset, number = tab.state.shown, images = tab.shownUnit.images ?? [];
        const set = (text, title, name) => add(text, title, async () => {
            (await ipAdapter.loadSubject("regions")).press(tab, {number, key}, name);
        });
        set("Left", "It acts in the left half of the picture", "left");
        set("Right", "It acts in the right half of the picture", "right");
        set("Top", "It acts in the upper half of the picture", "top");
        set("Bottom", "It acts in the lower half of the picture", "bottom");
        if (images.some((one) => one.region && one.key !== key)) {
            set("What the others leave", "It acts where no other reference's region is", "rest");
        }
        set("Draw …", "Paint where in the picture it acts", "draw");
        if (images.some((one) => one.region && one.key === key)) {
            set("Remove", "It acts in the whole picture again", "clear");
        }
    }

    // The card may have been drawn anew meanwhile.
    function focusCard(tab, card) {
        const shown = card.isConnected ? card : ipAdapter.cards.listOf(tab).querySelector(`[data-key="${card.dataset.key}"]`);
        const place = shown?.querySelector(".ip-adapter-more") ?? tab.element("drop_area").querySelector("[role=button]");
        place.focus({preventScroll: true});
    }

    // The whole picture in a dialog: what the card shows until it has come.
    async function enlarge(tab, card) {
        const small = card.querySelector("img.ip-adapter-whole");
        if (!small) return;
        const dialog = Object.assign(document.createElement("dialog"), {className: "ip-adapter-enlarged"});
        const image = Object.assign(document.createElement("img"), {src: small.src, alt: small.alt});
        const close = button("✕", () => dialog.close());
        close.title = "Close";
        close.setAttribute("aria-label", "Close");
        dialog.setAttribute("aria-label", small.alt);
        dialog.append(image, close);
        dialog.addEventListener("close", () => {
            dialog.remove();  // a picture that was clicked has no focus to go back to
            if (document.activeElement === document.body) focusCard(tab, card);
        });
        // To the WebUI, Escape means that the job is to end.
        dialog.addEventListener("keydown", (event) => event.stopPropagation());
        dialog.addEventListener("click", ({target}) => { if (target !== close) dialog.close(); });
        (document.querySelector(".gradio-container") ?? document.body).append(dialog);
        dialog.showModal();
        const whole = await ipAdapter.pictures.whole(tab, card.dataset.key);
        if (whole) image.src = whole;
        dialog.classList.add("ip-adapter-complete");
    }
    return {toggle, enlarge};
})();

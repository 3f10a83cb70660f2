// What a card's ⋯ offers: to enlarge its picture, to move it, and to give it a weight of its own.
ipAdapter.card_menu = (() => {
    function button(textContent, onclick) {
        return Object.assign(document.createElement("button"), {type: "button", textContent, onclick});
    }
    function toggle(tab, card) {
        const opener = card.querySelector(".ip-adapter-more"), open = card.querySelector(".ip-adapter-card-menu");
        if (open) {
            opener.setAttribute("aria-expanded", "false");
            return open.remove();
        }
        const {key} = card.dataset, {state} = tab, count = ipAdapter.shownUnit(state).images?.length ?? 0;
        const menu = Object.assign(document.createElement("span"), {className: "ip-adapter-card-menu"});
        menu.setAttribute("role", "group");
        menu.setAttribute("aria-label", opener.getAttribute("aria-label"));
        const add = (text, title, act) => {
            const item = button(text, () => {
                toggle(tab, card);
                opener.focus({preventScroll: true});
                act();
            });
            item.title = title;
            menu.append(item);
        };
        if (card.querySelector("img.ip-adapter-whole")) add("Enlarge", "Look at the whole picture", () => enlarge(tab, card));
        const field = card.querySelector("label");
        if (field?.hidden) add("Weight", "A weight of this reference alone", () => {
            field.hidden = false;
            field.querySelector("input").focus();
        });
        if (card.querySelector(".ip-adapter-mask[aria-pressed=true]")) {
            add("Without mask", "All of the picture counts again", () => ipAdapter.references.setMask(tab, key));
        }
        if (count > 1) {
            add("Earlier", "One place to the front: Alt+←", () => ipAdapter.moves.step(tab, key, -1));
            add("Later", "One place to the back: Alt+→", () => ipAdapter.moves.step(tab, key, 1));
        }
        state.units.forEach((_, i) => {
            if (i + 1 === state.shown) return;
            add(`Unit ${i + 1}`, "Move it into this unit", () => ipAdapter.moves.move(tab, key, Infinity, i + 1));
        });
        opener.setAttribute("aria-expanded", "true");
        card.append(menu);
        menu.querySelector("button")?.focus({preventScroll: true});
        menu.addEventListener("keydown", (event) => {
            if (event.key !== "Escape") return;
            event.stopPropagation();
            toggle(tab, card);
            opener.focus({preventScroll: true});
        });
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

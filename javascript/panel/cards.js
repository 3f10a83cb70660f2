// Cards on view: the server draws those of the shown unit anew at each change, and here only what differs is taken over.
// So pictures do not flicker, and the focus and what is being typed stay. Cards move, come and go with the state at
// once; what the server has to say about them follows.
(window.ipAdapter ??= {}).cards = (() => {
    const known = {txt2img: new Map(), img2img: new Map()};  // key -> card; of all units, as far as they were on view
    const thumbnails = new Map();  // key -> address of a picture on its way, which is in this browser anyway

    function listOf(tab) {
        const column = tab.element("references");
        let list = column.querySelector(":scope > .ip-adapter-cards");
        if (!list) {
            list = Object.assign(document.createElement("ul"), {className: "ip-adapter-cards"});
            column.append(list);
        }
        return list;
    }

    // `card` becomes what `drawn` is, with as few changes as it takes.
    function morph(card, drawn) {
        const menu = card.querySelector(":scope > .ip-adapter-card-menu");
        if (menu) drawn.querySelector(menu.dataset.by)?.setAttribute("aria-expanded", "true");
        if (card.matches("label") && card.contains(document.activeElement)) drawn.hidden = false;
        for (const {name} of [...card.attributes]) if (!drawn.hasAttribute(name)) card.removeAttribute(name);
        for (const {name, value} of drawn.attributes) {
            if (card.getAttribute(name) !== value) card.setAttribute(name, value);
        }
        const olds = [...card.childNodes].filter((node) => !node.matches?.(".ip-adapter-card-menu"));
        [...drawn.childNodes].forEach((node, i) => {
            const old = olds[i];
            if (!old) card.append(node);
            else if (old.nodeName !== node.nodeName) old.replaceWith(node);
            else if (node.nodeType === Node.ELEMENT_NODE) morph(old, node);
            else if (old.data !== node.data) old.replaceWith(node);  // a new text is translated, a changed one is not
        });
        olds.slice(drawn.childNodes.length).forEach((node) => node.remove());
    }

    // A picture that is on its way is seen already.
    function showThumbnail(card, key) {
        const place = card.querySelector(".ip-adapter-waiting"), address = thumbnails.get(key);
        if (!place || !address) return;
        const box = Object.assign(document.createElement("span"), {className: "ip-adapter-captioned"});
        const image = Object.assign(document.createElement("img"), {src: address, className: "ip-adapter-whole", alt: ""});
        image.onerror = () => image.removeAttribute("src");
        box.append(image, Object.assign(document.createElement("small"), {textContent: place.textContent}));
        place.replaceWith(box);
    }
    function noteThumbnail(key, file) {
        if (file.type.startsWith("image/")) thumbnails.set(key, URL.createObjectURL(file));
    }
    function forgetThumbnail(key) {
        URL.revokeObjectURL(thumbnails.get(key));
        thumbnails.delete(key);
    }
    function announced({key, waiting}) {
        const card = Object.assign(document.createElement("li"), {className: "ip-adapter-card"});
        card.dataset.key = key;
        card.innerHTML = "<span class='ip-adapter-shown'><em class='ip-adapter-waiting'></em></span>";
        if (waiting) card.querySelector("em").textContent = "on its way …";
        showThumbnail(card, key);
        return card;
    }

    // What a card hangs on, apart from its numbers.
    function lookOf(unit, {key, waiting, negative, pose, mask, region, at}) {
        const {crop, resolution, variant, face_index: face} = unit;
        return JSON.stringify([waiting, negative, pose, mask, region, at === undefined, crop, resolution, variant, face]);
    }

    // The server's drawing, if it has come.
    function take(tab) {
        const list = listOf(tab), template = tab.element("references").querySelector("template.ip-adapter-drawn");
        if (!template || template.dataset.stamp === list.dataset.stamp) return;
        const {state} = tab, unit = ipAdapter.shownUnit(state), cards = known[tab.name];
        const items = new Map((unit.images ?? []).map((item) => [item.key, item]));
        list.dataset.stamp = template.dataset.stamp;
        for (const drawn of [...template.content.children]) {
            const {key} = drawn.dataset, html = drawn.outerHTML, card = cards.get(key), item = items.get(key);
            showThumbnail(drawn, key);
            if (!card) cards.set(key, drawn);
            else if (card.html !== html) morph(card, drawn);
            Object.assign(cards.get(key), {html, look: item && lookOf(unit, item)});
            if (item && !item.waiting) forgetThumbnail(key);
        }
        arrange(tab, state);
    }

    // The cards of the unit that is shown, in their order.
    function arrange(tab, state) {
        const list = listOf(tab), cards = known[tab.name], unit = ipAdapter.shownUnit(state), items = unit.images ?? [];
        const focused = list.contains(document.activeElement) ? document.activeElement : null;
        const place = [...list.children].indexOf(focused?.closest(".ip-adapter-card"));
        items.forEach((item, i) => {
            if (!cards.has(item.key)) cards.set(item.key, announced(item));
            const card = cards.get(item.key);
            card.classList.toggle("ip-adapter-changing", Boolean(card.look) && card.look !== lookOf(unit, item));
            if (list.children[i] !== card) list.insertBefore(card, list.children[i] ?? null);
        });
        while (list.children.length > items.length) list.lastChild.remove();
        const used = new Set(state.units.flatMap(({images}) => images ?? []).map(({key}) => key));
        for (const key of cards.keys()) {
            if (!used.has(key)) {
                cards.delete(key);
                forgetThumbnail(key);
            }
        }
        tab.element("drop_area").querySelector(".ip-adapter-clear").hidden = items.length < 2;
        const start = tab.element("drop_area").querySelector(".ip-adapter-start");
        if (start) start.hidden = ipAdapter.references.hasStart(unit);
        if (focused && document.activeElement !== focused) refocus(tab, list, focused, place);
    }
    // The focus stays where it was, or goes to the same place on the card that has come there.
    function refocus(tab, list, focused, place) {
        const card = list.children[Math.min(place, list.children.length - 1)];
        const same = focused.isConnected ? focused : card?.querySelector(`.${focused.className.split(" ")[0] || "none"}`);
        const fallback = card?.querySelector(".ip-adapter-remove") ?? tab.element("drop_area").querySelector("[role=button]");
        (same ?? fallback).focus({preventScroll: true});
    }

    return {take, arrange, listOf, noteThumbnail, forgetThumbnail};
})();

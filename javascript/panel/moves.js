// References move: to another place, or into another unit; by mouse, or with Alt and the arrow keys.
(window.ipAdapter ??= {}).moves = (() => {
    const CARD = ".ip-adapter-card", TYPE = "application/x-ip-adapter-card";
    const SIDES = ["ip-adapter-drop-before", "ip-adapter-drop-after"];
    let dragged = null;  // the card

    // To place `place`, counted from 0, of the unit `number`: this one if it is not given.
    function move(tab, key, place, number) {
        const {state} = tab, from = state.units.findIndex(({images}) => images?.some((one) => one.key === key)) + 1;
        if (!from) return;
        const to = number ?? from, old = state.units[from - 1].images.findIndex((one) => one.key === key);
        const others = (state.units[to - 1].images ?? []).filter((one) => one.key !== key);
        const {references: most} = tab.facts, target = Math.max(0, Math.min(place, others.length));
        if (others.length >= most) {
            ipAdapter.notes.clear(tab);
            return ipAdapter.notes.tell(tab, "", `A unit has at most ${most} references: remove one first.`);
        }
        if (to === from && target === old) return;
        const label = to === from
            ? `moved reference ${old + 1} to place ${target + 1}` : `moved reference ${old + 1} to unit ${to}`;
        ipAdapter.undo.act(tab, label, (changed) => {
            const [reference] = changed.units[from - 1].images.splice(old, 1);
            const images = changed.units[to - 1].images ??= [];
            images.splice(target, 0, reference);
        });
    }
    function step(tab, key, by) {
        const place = (tab.shownUnit.images ?? []).findIndex((one) => one.key === key);
        move(tab, key, place + by);
    }

    function onKey(event) {
        const card = event.altKey && event.target.closest?.(CARD), by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
        if (!card || !by) return;
        event.preventDefault();  // the browser would go to another page
        step(ipAdapter.tabOf(card), card.dataset.key, by);
    }

    // By mouse: a card's picture is dragged onto another card, or onto a unit's tab.

    function onDragStart(event) {
        const card = event.target.closest?.(".ip-adapter-shown")?.closest(CARD);
        if (!card) return;
        dragged = card;
        event.dataTransfer.clearData();
        event.dataTransfer.setData(TYPE, card.dataset.key);
        event.dataTransfer.effectAllowed = "move";
    }
    function unmark() {
        for (const name of [...SIDES, "ip-adapter-drop-target"]) {
            gradioApp().querySelectorAll(`.${name}`).forEach((element) => element.classList.remove(name));
        }
    }
    // Where a dragged card would come to be: {tab, place, number, mark: what shows it, and how}.
    function targetOf(event) {
        const {target} = event, tab = dragged && ipAdapter.tabOf(dragged), card = target.closest?.(CARD);
        const number = ipAdapter.dropping.unitAt(target);
        if (!tab || !tab.panel.contains(target)) return null;
        if (number) return {tab, number, place: Infinity, mark: [target.closest("button"), "ip-adapter-drop-target"]};
        if (!card || card === dragged) return null;
        const {left, width} = card.getBoundingClientRect(), isAfter = event.clientX > left + width / 2;
        const cards = [...card.parentElement.children].filter((one) => one !== dragged);
        return {tab, place: cards.indexOf(card) + isAfter, mark: [card, SIDES[Number(isAfter)]]};
    }
    function onDragOver(event) {
        if (!dragged || !event.dataTransfer.types.includes(TYPE)) return;
        const target = targetOf(event);
        unmark();
        if (!target) return;
        event.preventDefault();
        event.dataTransfer.dropEffect = "move";
        target.mark[0].classList.add(target.mark[1]);
    }
    function onDrop(event) {
        if (!dragged || !event.dataTransfer.types.includes(TYPE)) return;
        const target = targetOf(event), {key} = dragged.dataset;
        onDragEnd();
        if (!target) return;
        event.preventDefault();
        event.stopImmediatePropagation();
        move(target.tab, key, target.place, target.number);
    }
    function onDragEnd() {
        unmark();
        dragged = null;
    }

    // What is rarer has a menu in the card, and a click on a picture enlarges it (opened/card_menu.js).
    async function onClick(event) {
        const card = event.target.closest?.(CARD), {target} = event;
        if (!card) return;
        if (target.matches(".ip-adapter-more")) {
            (await ipAdapter.loadSubject("card_menu")).toggle(ipAdapter.tabOf(card), card);
        } else if (target.matches("img.ip-adapter-whole, img.ip-adapter-seen")) {
            (await ipAdapter.loadSubject("card_menu")).enlarge(ipAdapter.tabOf(card), card);
        }
    }

    document.addEventListener("keydown", onKey);
    document.addEventListener("dragstart", onDragStart);
    document.addEventListener("dragover", onDragOver);
    document.addEventListener("drop", onDrop, true);
    document.addEventListener("dragend", onDragEnd);
    document.addEventListener("click", onClick);
    return {TYPE, move, step};
})();

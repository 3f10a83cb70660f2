// Notes beside the references: each file that was refused, with its reason, and what was done with others. They stay
// until somebody closes them, adds something else, or removes a reference.
(window.ipAdapter ??= {}).notes = (() => {
    const NAMED = 5;  // of many files
    function listOf(tab) {
        const row = tab.element("drop_area").parentElement;
        let list = row.querySelector(":scope > .ip-adapter-notes");
        if (!list) {
            list = Object.assign(document.createElement("ul"), {className: "ip-adapter-notes"});
            list.setAttribute("role", "status");
            row.append(list);
        }
        return list;
    }
    // It stays as it is in any language.
    const named = (name) => Object.assign(document.createElement("span"), {textContent: name, translate: false});
    // `name` is a file's; with `isWord`, the sentence goes on after it, and there is no problem. What is said is given in
    // pieces that are texts of their own: each is looked up in the page's language.
    function tell(tab, name, said, isWord = false) {
        const line = document.createElement("li"), text = document.createElement("span");
        const close = Object.assign(document.createElement("button"), {type: "button", textContent: "✕", title: "Close"});
        close.setAttribute("aria-label", `Close the note about ${name || "the picture"}`);
        text.append(...isWord ? [named(name), " "] : name ? ["⚠ ", named(name), ": "] : ["⚠ "], ...[said].flat());
        line.classList.toggle("ip-adapter-problem", !isWord);
        line.append(text, close);
        listOf(tab).append(line);
    }
    function tellOfMany(tab, names, sentence) {
        const more = names.length - NAMED;
        const rest = more > 0 ? [", ", `and ${more} more`] : [];
        if (names.length) tell(tab, "", [sentence, " ", named(names.slice(0, NAMED).join(", ")), ...rest, "."]);
    }
    function clear(tab) {
        listOf(tab).replaceChildren();
    }
    function onClick(event) {
        const close = event.target.closest?.(".ip-adapter-notes button");
        if (!close) return;
        const list = close.closest(".ip-adapter-notes"), line = close.parentElement;
        const next = line.nextElementSibling ?? line.previousElementSibling;
        line.remove();
        const area = list.parentElement.querySelector(".ip-adapter-drop-area");
        (next?.querySelector("button") ?? area).focus({preventScroll: true});
    }
    document.addEventListener("click", onClick);
    return {tell, tellOfMany, clear};
})();

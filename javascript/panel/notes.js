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
    // `name` is a file's; with `isWord`, `sentence` goes on after it, and there is no problem.
    function tell(tab, name, sentence, isWord = false) {
        const line = document.createElement("li"), text = document.createElement("span");
        const close = Object.assign(document.createElement("button"), {type: "button", textContent: "✕", title: "Close"});
        close.setAttribute("aria-label", `Close the note about ${name || "the picture"}`);
        text.textContent = isWord ? `${name} ${sentence}` : name ? `⚠ ${name}: ${sentence}` : `⚠ ${sentence}`;
        line.classList.toggle("ip-adapter-problem", !isWord);
        line.append(text, close);
        listOf(tab).append(line);
    }
    function tellOfMany(tab, names, sentence) {
        const more = names.length - NAMED;
        const shown = names.slice(0, NAMED).join(", ") + (more > 0 ? `, and ${more} more` : "");
        if (names.length) tell(tab, "", `${sentence} ${shown}.`);
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

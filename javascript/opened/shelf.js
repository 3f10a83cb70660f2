// The shelf: what the server tells of presets, kept generations and references (shelf.py), as pictures to click. All
// texts that people have written come as text, never as HTML.
Object.assign(ipAdapter.shelf, (() => {
    const GROUPS = {recent: "Recent generations", presets: "Presets"};
    const EMPTY = {
        recent: "Nothing here yet: generations with references are kept here, with their first picture.",
        presets: "Nothing here yet: what you save with 💾 is kept here.",
    };
    const shelfOf = (tab) => ipAdapter.byId(`${tab.name}_ip_adapter_shelf_shown`);
    function make(name, attributes = {}, ...children) {
        const element = document.createElement(name);
        for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
        element.append(...children);
        return element;
    }
    const button = (attributes, ...children) => make("button", {type: "button", ...attributes}, ...children);

    // Small pictures by content hash: those that are known; the others are asked for until they have come.

    const known = new Map();
    function note(small) {
        for (const [name, address] of Object.entries(small ?? {})) known.set(name, address);
    }
    const blank = () => make("span", {class: "ip-adapter-blank"}, "▦");
    function fill(image) {
        const address = known.get(image.dataset.name);
        if (address) image.src = address;
        else if (address === "") image.replaceWith(blank());
    }
    function picture(name) {
        const image = make("img", {alt: "", "data-name": name});
        fill(image);
        return known.get(name) === "" ? blank() : image;
    }
    async function fillAll(tab) {
        const images = () => [...shelfOf(tab)?.querySelectorAll("img[data-name]:not([src])") ?? []];
        while (images().length) {
            const names = [...new Set(images().map((image) => image.dataset.name))];
            const {small} = await ipAdapter.shelf.ask(tab, {ask: "small", names});
            if (!Object.keys(small ?? {}).length) return;
            note(small);
            images().forEach(fill);
        }
    }

    // What is on it

    function entry({name, picture: made, references, count}) {
        const first = () => references.length ? picture(references[0]) : blank();
        const shown = made ? make("img", {alt: "", src: made}) : first();
        shown.classList.add("ip-adapter-made");
        const small = make("span", {class: "ip-adapter-shelved-references"}, ...references.map(picture));
        if (count > references.length) small.append(`+${count - references.length}`);
        const tile = button({class: "ip-adapter-shelved", title: "Load into the units"}, shown);
        tile.append(small, make("span", {class: "ip-adapter-shelved-name", translate: "no"}, name));
        tile.shelved = name;
        return tile;
    }
    function drawGroup(tab, {group, total, entries, start = 0}) {
        const shelf = shelfOf(tab), grid = shelf.querySelector(".ip-adapter-shelf-grid");
        const more = shelf.querySelector(".ip-adapter-shelf-more"), hadFocus = document.activeElement === more;
        if (!start) grid.replaceChildren();
        else if (start !== grid.querySelectorAll(".ip-adapter-shelved").length) return;  // drawn anew meanwhile
        const tiles = entries.map(entry);
        grid.append(...tiles);
        if (!total) grid.append(make("em", {}, EMPTY[group]));
        shelf.dataset.group = group;
        for (const one of shelf.querySelectorAll("[data-group-name]")) {
            one.setAttribute("aria-pressed", one.dataset.groupName === group);
        }
        const count = grid.querySelectorAll(".ip-adapter-shelved").length;
        more.hidden = count >= total || !entries.length;
        if (hadFocus) tiles[0]?.focus();
    }
    function drawLately(tab, names) {
        const strip = shelfOf(tab).querySelector(".ip-adapter-lately");
        strip.hidden = !names.length;
        const title = "Add to the shown unit";
        strip.querySelector("div").replaceChildren(...names.map((name, i) => {
            return button({title, "aria-label": `${title} (${i + 1})`, "data-add": name}, picture(name));
        }));
    }
    function frame(tab) {
        const groups = Object.entries(GROUPS).map(([name, text]) => button({"data-group-name": name}, text));
        const id = `${tab.name}_ip_adapter_shelf_shown`;
        const shelf = make("div", {id, class: "ip-adapter-shelf", role: "group", "aria-label": "Shelf"},
            make("div", {class: "ip-adapter-problem ip-adapter-note", role: "status"}),
            make("div", {class: "ip-adapter-lately"}, make("span", {}, "References used lately"), make("div")),
            make("div", {class: "ip-adapter-shelf-groups"}, ...groups),
            make("div", {class: "ip-adapter-shelf-grid"}),
            button({class: "ip-adapter-shelf-more"}, "More"),
        );
        tab.element("note").after(shelf);
        return shelf;
    }

    // What is asked

    // What was asked of another group than the one that is wanted by now, or for a shelf that was closed, comes too late.
    async function show(tab, question) {
        const shelf = shelfOf(tab);
        if (question.group) shelf.dataset.wanted = question.group;
        const answer = await ipAdapter.shelf.ask(tab, question);
        if (shelf !== shelfOf(tab)) return;
        note(answer.small);
        if (answer.lately) drawLately(tab, answer.lately);
        if (shelf.dataset.wanted !== question.group) return;
        const problem = answer.entries ? "" : answer.problem ?? "The server has not answered: open the shelf again.";
        shelf.querySelector(".ip-adapter-problem").textContent = problem;
        if (!answer.entries) return;
        drawGroup(tab, {...answer, start: question.start});
        await fillAll(tab);
    }
    function toggle(tab, opener) {
        const shelf = shelfOf(tab), isOpen = !shelf;
        opener.setAttribute("aria-expanded", isOpen);
        if (shelf) return shelf.remove();
        frame(tab);
        return show(tab, {ask: "open"});
    }
    // Something has been done with presets.
    function renew(tab) {
        const group = shelfOf(tab)?.dataset.group;
        if (group === "presets") show(tab, {ask: "group", group});
    }
    async function more(tab, shelf) {
        if ((shelf.dataset.wanted ?? shelf.dataset.group) !== shelf.dataset.group) return;  // another group is coming
        const start = shelf.querySelectorAll(".ip-adapter-shelved").length;
        if (shelf.dataset.start === `${start}`) return;  // asked already
        shelf.dataset.start = start;
        await show(tab, {ask: "group", group: shelf.dataset.group, start});
        if (shelf.dataset.start === `${start}`) delete shelf.dataset.start;
    }
    function onClick(event) {
        const pressed = event.target.closest?.(".ip-adapter-shelf button"), tab = pressed && ipAdapter.tabOf(pressed);
        if (!pressed) return;
        const {groupName, add} = pressed.dataset, shelf = shelfOf(tab);
        if (groupName) {
            show(tab, {ask: "group", group: groupName});
        } else if (add) {
            ipAdapter.pictures.add(tab, [ipAdapter.shelf.stored(`sha256:${add}`)]);
        } else if (pressed.matches(".ip-adapter-shelf-more")) {
            more(tab, shelf);
        } else {
            const label = `loaded “${pressed.shelved}”`;
            ipAdapter.presets.give(tab, {do: "load", name: pressed.shelved}, label);
        }
    }
    function onKey(event) {
        const shelf = event.key === "Escape" && event.target.closest?.(".ip-adapter-shelf");
        if (!shelf) return;
        event.stopPropagation();  // to the WebUI it means that the job is to end
        const opener = ipAdapter.tabOf(shelf).element("preset_shelf");
        opener.click();
        opener.focus({preventScroll: true});
    }
    document.addEventListener("click", onClick);
    document.addEventListener("keydown", onKey, true);
    return {toggle, renew};
})());

// Looks: a strip below the references with all that are kept (look_row.py). A press adds one to the shown unit; what
// needs a name or a yes is asked for in the preset bar's line of notes. Names come as text, never as HTML.
ipAdapter.looks = (() => {
    const stripOf = (tab) => ipAdapter.byId(`${tab.name}_ip_adapter_looks`);
    function make(name, attributes = {}, ...children) {
        const element = document.createElement(name);
        for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
        element.append(...children);
        return element;
    }
    function button(attributes, onclick, ...children) {
        return Object.assign(make("button", {type: "button", ...attributes}, ...children), {onclick});
    }
    const named = (name) => make("span", {class: "ip-adapter-look-name", translate: "no"}, name);

    function order(tab, pressed, wanted) {
        tab.presets.button = pressed;
        ipAdapter.presets.give(tab, wanted);
    }
    function entry(tab, {name, picture, kind}) {
        const small = picture ? make("img", {alt: "", src: picture}) : make("span", {class: "ip-adapter-blank"}, "▦");
        const tools = [
            ["📤", "Export this look to a file", {do: "export look", name}],
            ["🗑️", "Delete this look", {ask: "delete look", name}],
        ].map(([sign, title, wanted]) => {
            return button({title, "aria-label": title}, (event) => order(tab, event.currentTarget, wanted), sign);
        });
        const add = () => ipAdapter.pictures.add(tab, [ipAdapter.shelf.stored(`look:${name}`, name)]);
        return make("div", {class: "ip-adapter-look-entry"},
            button({class: "ip-adapter-look-add", title: "Add to the shown unit"}, add,
                small, named(name), make("small", {translate: "no"}, kind)),
            make("span", {class: "ip-adapter-look-tools"}, ...tools));
    }
    function frame(tab) {
        const keep = (event) => order(tab, event.currentTarget, {ask: "keep look"});
        const strip = make("div", {
            id: `${tab.name}_ip_adapter_looks`, class: "ip-adapter-looks", role: "group", "aria-label": "Looks",
        },
            make("div", {class: "ip-adapter-problem ip-adapter-note", role: "status"}),
            make("div", {class: "ip-adapter-looks-grid"}),
            button({class: "ip-adapter-look-keep", title: "Keep what the shown unit takes of its references, under a name"},
                keep, "Keep as look …"));
        strip.addEventListener("keydown", (event) => {
            if (event.key !== "Escape") return;
            event.stopPropagation();  // to the WebUI it means that the job is to end
            const opener = tab.element("drop_area").querySelector(".ip-adapter-looks-opener");
            opener.click();
            opener.focus({preventScroll: true});
        });
        tab.element("drop_area").parentElement.after(strip);
    }
    async function renew(tab) {
        if (!stripOf(tab)) return;
        const {looks, problem} = await ipAdapter.shelf.ask(tab, {ask: "looks"}), strip = stripOf(tab);
        if (!strip) return;
        strip.querySelector(".ip-adapter-problem").textContent =
            looks ? "" : problem ?? "The server has not answered: open the looks again.";
        const grid = strip.querySelector(".ip-adapter-looks-grid");
        if (!looks) return;
        const none = "Nothing here yet: keep a unit's references as a look, or drop a look's file on the panel.";
        const buttons = () => [...grid.querySelectorAll("button")], at = buttons().indexOf(document.activeElement);
        grid.replaceChildren(...looks.length ? looks.map((look) => entry(tab, look)) : [make("em", {}, none)]);
        if (at < 0) return;  // the button that was pressed has gone with its look: another one has its place now
        const next = buttons()[Math.min(at, buttons().length - 1)] ?? strip.querySelector(".ip-adapter-look-keep");
        next.focus({preventScroll: true});
    }
    function toggle(tab, opener) {
        const strip = stripOf(tab);
        opener.setAttribute("aria-expanded", !strip);
        if (strip) return strip.remove();
        frame(tab);
        return renew(tab);
    }
    return {toggle, renew};
})();

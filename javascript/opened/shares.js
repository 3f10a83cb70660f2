// How much each unit did in the last picture, and from there the way to more of its style or of its subject. Loaded with
// the first picture of which the server tells it (webui/shares.py).
(window.ipAdapter ??= {}).shares = (() => {
    const WHAT = "How strongly the unit acted while the last picture was made; the prompt’s text is 100 %.";
    const WHAT_ON_FLUX = "How strongly the unit acted while the last picture was made; what it was added to is 100 %.";
    const UNKNOWN = {
        tokens: "It was not measured: tokens behind the prompt, as Redux has them, act as a part of it.",
        device: "It was not measured: the device had no room for that.",
        rows: "It was not measured: nothing told which of its rows were the prompt’s.",
    };
    const EVEN = 1.15;  // thirds that differ by no more are even
    const ACTS = {
        style: [
            "More style, less subject",
            "Strengthen the blocks that carry style by a quarter, and weaken all others by a fifth, as layer weights.",
            "leaned towards style",
        ],
        subject: [
            "More subject, less style",
            "Weaken the blocks that carry style by a fifth, and strengthen all others by a quarter, as layer weights.",
            "leaned towards the subject",
        ],
    };
    const told = {};  // by tab

    const percent = (share) => {
        const value = 100 * share;
        return value >= 1 || value === 0 ? Math.round(value) : value >= 0.05 ? value.toFixed(1) : "0";
    };
    function blocksOf({style, composition, rest, input, middle, output, double, single}) {
        const [a, b, c] = [style ?? input ?? double, composition ?? middle ?? single, rest ?? output].map(percent);
        if (style !== undefined) return `Style ${a} %, composition ${b} %, rest ${c} %`;
        if (single !== undefined) return `Double blocks ${a} %, single blocks ${b} %`;
        return input === undefined ? "" : `Input ${a} %, middle ${b} %, output ${c} %`;
    }
    function timeOf(thirds) {
        if (thirds.includes(null)) return "";  // one or two steps
        const most = Math.max(...thirds);
        if (most <= EVEN * Math.min(...thirds)) return "even over the steps";
        const words = ["strongest in the first third", "strongest in the second third", "strongest in the last third"];
        return words[thirds.indexOf(most)];
    }
    function lineOf(tab) {
        let line = tab.element("shares");
        if (!line) {
            line = Object.assign(document.createElement("div"), {
                id: `${tab.name}_ip_adapter_shares`, className: "ip-adapter-shares", hidden: true,
            });
            line.setAttribute("role", "status");
            tab.element("chips").before(line);
        }
        return line;
    }
    function textsOf({unit, influence, why, blocks, thirds}) {
        if (influence === null) return [UNKNOWN[why], [`Unit ${unit} acted; how much cannot be told`]];
        const isFlux = "double" in blocks, share = percent(influence);
        const text = isFlux
            ? `Unit ${unit} added ${share} % to what the model had there`
            : `Unit ${unit} did ${share} % of what the prompt did`;
        return [isFlux ? WHAT_ON_FLUX : WHAT, [text, blocksOf(blocks), timeOf(thirds)]];
    }
    function drawnUnit(told) {
        const [title, texts] = textsOf(told);
        const line = Object.assign(document.createElement("div"), {title});
        line.dataset.unit = told.unit;
        const spans = texts.filter(Boolean).map((text) => Object.assign(document.createElement("span"), {textContent: text}));
        line.append(...spans.flatMap((span, i) => i ? [" · ", span] : [span]));
        return line;
    }
    function drawnActs() {
        const acts = Object.assign(document.createElement("div"), {className: "ip-adapter-shares-acts"});
        for (const [towards, [textContent, title]] of Object.entries(ACTS)) {
            const button = Object.assign(document.createElement("button"), {type: "button", textContent, title});
            button.dataset.towards = towards;
            acts.append(button);
        }
        return acts;
    }
    // The job's info has come: `units` are those that did something.
    function show(tab, units) {
        const line = lineOf(tab);
        told[tab.name] = units;
        if (units.length && !leanedOf(tab)) ipAdapter.drawings.drawBarsAtRest(tab);  // nobody has asked for them yet
        line.hidden = !units.length;
        line.replaceChildren(...units.map(drawnUnit), drawnActs());
        follow(tab);
    }
    // The presses are for the unit that is shown, where it did something, and where it is known what blocks carry.
    const leanedOf = (tab) => tab.element("bars").querySelector("[data-leaned]")?.dataset.leaned;
    function follow(tab) {
        const line = tab.element("shares"), {shown} = tab.state;
        if (!line) return;
        for (const one of line.querySelectorAll("[data-unit]")) {
            one.classList.toggle("ip-adapter-shares-shown", Number(one.dataset.unit) === shown);
        }
        const isTold = (told[tab.name] ?? []).some(({unit, blocks}) => unit === shown && "style" in (blocks ?? {}));
        line.querySelector(".ip-adapter-shares-acts").hidden = !isTold || !leanedOf(tab);
    }
    // The server says with the bars what the shown unit's layer weights would be.
    async function lean(tab, towards) {
        const {shown} = tab.state;
        if (!await ipAdapter.drawings.awaitBars(tab) || tab.state.shown !== shown || !leanedOf(tab)) return;
        const text = JSON.parse(leanedOf(tab))[towards];
        ipAdapter.undo.remember(tab, ACTS[towards][2]);
        tab.changeShownUnit((unit) => { unit.layer_weights = text; });
    }
    function onClick(event) {
        const button = event.target.closest?.(".ip-adapter-shares-acts > button");
        if (button) lean(ipAdapter.tabOf(button), button.dataset.towards);
    }
    document.addEventListener("click", onClick);
    return {show, follow};
})();

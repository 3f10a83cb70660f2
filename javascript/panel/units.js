// Units: the panel's tick, the row in which one of them is chosen, the switch to it, what follows a change of any unit,
// and those of a unit's controls that are HTML of our own.
(window.ipAdapter ??= {}).units = (() => {
    // Who adds a reference wants it to be used.

    const headOf = (tab) => tab.panel.querySelector(":scope > .label-wrap");
    function tick(tab) {
        if (tab.tickbox && !tab.tickbox.checked) tab.tickbox.click();
    }
    function onTick(event) {
        const isReal = event instanceof MouseEvent && event.target.matches?.(".input-accordion-checkbox");
        const tab = isReal && ipAdapter.tabOf(event.target);
        if (tab && tab.tickbox === event.target) tab.tick.clicked = performance.now();
    }
    // Set by parameters that have come: then the panel opens, or folds where they are of a picture made without us.
    function answerTick(tab, [isSet]) {
        const isByHand = performance.now() - tab.tick.clicked < 1000;
        if (!isByHand && headOf(tab).classList.contains("open") !== isSet) headOf(tab).click();
        if (tab.tick.clicked === Infinity) tab.tick.clicked = -Infinity;  // it was, before this script was here
        Object.assign(tab.tick, {isSet, isAnswered: false});
        drawRow(tab, tab.state);
        return [];
    }

    // The row of units

    async function show(tab, number) {
        tab.requestedUnit = number;
        tab.press("show");
        // gradio applies the answer before anything else happens, but not before this code goes on.
        await ipAdapter.pause(0);
        await ipAdapter.waitUntil(() => tab.state.shown === number, 5000);
    }
    // Change what the shown unit has, the values of gradio's components among it.
    async function revise(tab, change) {
        tab.revisions.push(change);
        await show(tab, tab.state.shown);
    }
    // Set all units back to a `state`, what gradio's components show among it.
    function restore(tab, state) {
        tab.restored = state;
        tab.press("show");
    }
    function answerShow(tab, [text, ...values]) {
        const {fields} = tab.facts, {restored} = tab;
        const state = restored ?? JSON.parse(text), changes = tab.revisions.splice(0);
        const shownValues = Object.fromEntries(fields.map((field, i) => [field, values[i]]));
        if (!restored) Object.assign(ipAdapter.shownUnit(state), shownValues);
        tab.restored = null;
        for (const change of changes) change(ipAdapter.shownUnit(state));
        if (!restored && tab.requestedUnit >= 1 && tab.requestedUnit <= state.units.length) state.shown = tab.requestedUnit;
        const unit = ipAdapter.shownUnit(state);
        for (const field of fields) unit[field] ??= ipAdapter.page.initialValues[`${tab.name}_ip_adapter_${field}`];
        const updates = fields.map((field) => {
            return field === "weight" ? {...weightRange(tab, unit), value: unit.weight} : unit[field];
        });
        return [JSON.stringify(state), ...updates];
    }

    // The range of the weight's slider, as gradio wants an update of it. To some adapters negative weights mean nothing.
    function weightRange(tab, unit) {
        const [minimum, maximum] = tab.facts[unit.wide ? "wide" : "narrow"];
        const lowest = tab.facts.positive.includes(ipAdapter.purpose.kindOf(tab, unit.model)) ? 0 : minimum;
        return {minimum: Math.max(lowest, minimum), maximum, __type__: "update"};
    }
    function answerWide(tab, [text, weight]) {
        const state = JSON.parse(text), unit = ipAdapter.shownUnit(state);
        unit.wide = !unit.wide;
        const range = weightRange(tab, {...unit, model: tab.shownValues.model});
        const value = Math.min(range.maximum, Math.max(range.minimum, weight));
        return [JSON.stringify(state), {...range, value}];
    }

    // The state has changed, or whether the shown unit is enabled.
    function answerChange(tab, [text, ...shown]) {
        const state = JSON.parse(text), unit = ipAdapter.shownUnit(state);
        ipAdapter.shelf.noteChange(tab);
        ipAdapter.truth.noteShown(tab, shown);
        drawRow(tab, state);
        fillControls(tab, unit);
        ipAdapter.truth.showCurve(tab, unit);
        ipAdapter.drawings.followStrength(tab, unit);
        tab.element("drop_area").parentElement.classList.toggle("ip-adapter-filled", Boolean(unit.images?.length));
        ipAdapter.drawings.followReferences(tab, state);
        ipAdapter.purpose.draw(tab, unit);
        ipAdapter.undo.draw(tab);
        ipAdapter.shares?.follow(tab);
        ipAdapter.shelf.followFolder(tab, unit);
        setTimeout(() => {
            const field = (type) => tab.element("weight").querySelector(`input[type=${type}]`);
            field("range").value = field("number").value;
        });
        return [weightRange(tab, {...unit, model: tab.shownValues.model})];
    }

    function drawRow(tab, state) {
        const row = tab.element("units").querySelector(".ip-adapter-units"), {units} = state;
        const hadFocus = row.contains(document.activeElement);
        while (row.children.length > units.length) row.lastChild.remove();
        while (row.children.length < units.length) {
            const textContent = `Unit ${row.children.length + 1}`;
            row.append(Object.assign(document.createElement("button"), {type: "button", role: "tab", textContent}));
        }
        [...row.children].forEach((button, i) => {
            const isShown = i + 1 === state.shown;
            button.tabIndex = isShown ? 0 : -1;
            button.setAttribute("aria-selected", isShown);
        });
        ipAdapter.truth.draw(tab, state);
        if (hadFocus) row.children[state.shown - 1].focus();
    }
    function onRowClick(event) {
        const button = event.target.closest?.(".ip-adapter-units > button");
        if (button) show(ipAdapter.tabOf(button), [...button.parentElement.children].indexOf(button) + 1);
    }
    function onRowKey(event) {
        const row = event.target.closest?.(".ip-adapter-units");
        if (!row) return;
        const tab = ipAdapter.tabOf(row), count = row.children.length, {shown} = tab.state;
        const before = (shown + count - 2) % count + 1, after = shown % count + 1;
        const number = {ArrowLeft: before, ArrowRight: after, Home: 1, End: count}[event.key];
        if (!number) return;
        event.preventDefault();
        show(tab, number);
    }

    // Controls that are no components of gradio (html_controls.py): the state has their values.

    const CONTROL = ".ip-adapter-control";
    function fillControls(tab, unit) {
        for (const control of tab.panel.querySelectorAll(CONTROL)) {
            const value = unit[control.dataset.field] ?? JSON.parse(control.dataset.default);
            for (const field of control.querySelectorAll("input, select")) {
                if (field.type === "checkbox") field.checked = value;
                else if (field !== document.activeElement || field.matches("select, [type=range]")) field.value = value;
            }
        }
    }

    // A field's value, within its limits; null for a number that is not there.
    function valueOf(field) {
        if (field.type === "checkbox") return field.checked;
        if (!["number", "range"].includes(field.type)) return field.value;
        return field.value === "" ? null : Math.min(field.max, Math.max(field.min, field.value));
    }
    function onControl(event) {
        const control = event.target.closest?.(CONTROL), value = control ? valueOf(event.target) : null;
        if (value !== null) {
            ipAdapter.tabOf(control).changeShownUnit((unit) => { unit[control.dataset.field] = value; });
        }
    }

    // A field that is left shows the value that counts: within its limits, or what has come from elsewhere meanwhile.
    function onControlLeft(event) {
        const control = event.target.closest?.(CONTROL), tab = control && ipAdapter.tabOf(control);
        if (tab) setTimeout(() => fillControls(tab, tab.shownUnit));
    }

    // Some controls are for adapters of some variants only, or mean nothing to some; the line about the model says which
    // one it is.
    function showVariantsControls(tab) {
        const variant = tab.element("details").querySelector("[data-variant]")?.dataset.variant;
        const names = (list) => list?.split(" ").includes(variant) ?? false;
        for (const control of tab.panel.querySelectorAll("[data-variants], [data-not-for]")) {
            const {variants, notFor} = control.dataset;
            control.hidden = (variants !== undefined && !names(variants)) || names(notFor);
        }
        const sight = tab.panel.querySelector(".ip-adapter-sight");
        sight.hidden = [...sight.children].every(({hidden}) => hidden);
        showRange(tab, tab.facts.positive.includes(variant));
    }
    function showRange(tab, isPositive) {
        const {wide: [low], ranges} = tab.facts;
        tab.element("wide").title = ipAdapter.text(ranges[Number(isPositive)]);
        for (const field of tab.element("references").querySelectorAll(".ip-adapter-card input[type=number]")) {
            field.min = isPositive ? 0 : low;
        }
    }

    document.addEventListener("click", onTick, true);
    document.addEventListener("click", onRowClick);
    document.addEventListener("keydown", onRowKey);
    document.addEventListener("input", onControl);
    document.addEventListener("focusout", onControlLeft);
    return {
        weightRange, tick, show, revise, restore, drawRow, fillControls, showVariantsControls,
        answerTick, answerShow, answerWide, answerChange,
    };
})();

// Undo: what the units were before something was removed, moved or overwritten, and the line that offers it back.
(window.ipAdapter ??= {}).undo = (() => {
    const LONGEST = 20;  // acts; the session keeps their pictures (panel_state.py)
    // A tab's acts, the last one at the end: {label, text, values, isTicked, isOfReferences}. `text` is the state and
    // `values` those of gradio's components for the unit that was shown.
    const histories = {txt2img: [], img2img: []};
    const restored = {};  // a tab's name -> the state to which it is being set back

    function valueOf(tab, field) {
        const id = `${tab.name}_ip_adapter_${field}`;
        return gradio_config.components.find(({props}) => props?.elem_id === id)?.props.value;
    }
    function snapshot(tab) {
        const values = Object.fromEntries(tab.facts.fields.map((field) => [field, valueOf(tab, field)]));
        return {text: tab.hiddenBox("state").value, values, isTicked: tab.tick.isSet};
    }
    const isSame = (one, other) => one.text === other.text && JSON.stringify(one.values) === JSON.stringify(other.values);

    // Before an act that removes or overwrites something of any unit. `label` says in words what is about to be done:
    // "loaded “Autumn”". With `isOfReferences`, it touches references and regions only, and so does its undo.
    function remember(tab, label, isOfReferences = false) {
        const history = histories[tab.name];
        history.push({label, isOfReferences, ...snapshot(tab)});
        history.splice(0, history.length - LONGEST);
        draw(tab);
    }
    // The same for an act on references, which `change` does to the state.
    function act(tab, label, change) {
        remember(tab, label, true);
        tab.changeState(change);
    }

    // References as they were, in their places; what was set on those that are still there stays, as do those that have
    // been added since.
    function putBack(state, earlier) {
        const now = new Map(state.units.flatMap((unit) => unit.images ?? []).map((one) => [one.key, one]));
        const was = new Set(earlier.units.flatMap((unit) => unit.images ?? []).map(({key}) => key));
        state.units.forEach((unit, i) => {
            const {images = [], region} = earlier.units[i] ?? {};
            const added = (unit.images ?? []).filter(({key}) => !was.has(key));
            unit.images = [...images.map((one) => ({...one, waiting: undefined, ...now.get(one.key)})), ...added];
            unit.region = region ?? unit.region;
        });
    }
    function undo(tab) {
        const history = histories[tab.name], now = snapshot(tab);
        let last;
        do last = history.pop(); while (last && isSame(last, now));
        if (last?.isOfReferences) {
            tab.changeState((state) => putBack(state, JSON.parse(last.text)));
        } else if (last) {
            const state = JSON.parse(last.text);
            Object.assign(ipAdapter.shownUnit(state), last.values);
            restored[tab.name] = state;
            tab.press("show");
            if (tab.tick.isSet !== last.isTicked) tab.tickbox?.click();
        }
        draw(tab);
        return Boolean(last);
    }
    // The state to which the tab is being set back, once (ip_adapter_units.js).
    function takeRestored(tab) {
        const state = restored[tab.name];
        delete restored[tab.name];
        return state;
    }

    // The line

    function lineOf(tab) {
        const row = tab.element("drop_area").parentElement;
        let line = row.querySelector(":scope > .ip-adapter-undo");
        if (!line) {
            line = Object.assign(document.createElement("div"), {className: "ip-adapter-undo", hidden: true});
            line.setAttribute("role", "status");
            line.innerHTML = "<button type='button' title='Ctrl+Z'><span>Undo</span>: <span></span></button>";
            row.append(line);
        }
        return line;
    }
    function draw(tab) {
        const history = histories[tab.name];
        if (!history.length && !tab.element("drop_area").parentElement.querySelector(".ip-adapter-undo")) return;
        const line = lineOf(tab), hadFocus = line.contains(document.activeElement);
        const last = history.length ? history[history.length - 1] : null;
        line.hidden = !last || isSame(last, snapshot(tab));
        if (last) line.querySelector("button > span:last-child").textContent = last.label;
        if (hadFocus && line.hidden) {
            tab.element("drop_area").querySelector("[role=button]").focus({preventScroll: true});
        }
    }

    function onClick(event) {
        const button = event.target.closest?.(".ip-adapter-undo > button");
        if (button) undo(ipAdapter.tabOf(button));
    }
    function onKey(event) {
        if (event.key.toLowerCase() !== "z" || !(event.ctrlKey || event.metaKey) || event.shiftKey) return;
        const {target} = event, tab = target.closest && ipAdapter.tabOf(target);
        const isText = target.matches?.("textarea, select, input:not([type=checkbox], [type=range])");
        if (tab && !isText && undo(tab)) event.preventDefault();
    }

    // Parameters are about to be put into the units.
    function answerPasting(tab, values) {
        remember(tab, "pasted parameters");
        return values;
    }

    document.addEventListener("click", onClick);
    document.addEventListener("keydown", onKey);
    return {remember, act, undo, draw, takeRestored, answerPasting};
})();

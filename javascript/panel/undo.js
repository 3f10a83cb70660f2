// Undo: what the units were before something was removed, moved or overwritten, and the line that offers it back.
(window.ipAdapter ??= {}).undo = (() => {
    const LONGEST = 20;  // acts; the session keeps their pictures (panel_state.py)
    const SETTLED = 5000;  // milliseconds: what is about to be put into the units has come by then, or never comes
    // A tab's acts, the last one at the end: {label, text, values, isTicked, time, changed}. `text` is the state and
    // `values` those of gradio's components for the unit that was shown; `changed`, of an act on references only, are
    // the references whose masks, regions or places over time, and the units whose regions it has changed.
    const histories = {txt2img: [], img2img: []};
    const undone = {};  // a tab's name -> what the units were before the last undo of all that they were

    function snapshot(tab) {
        return {text: tab.hiddenBox("state").value, values: tab.shownFields, isTicked: tab.tick.isSet};
    }
    const isSame = (one, other) => one.text === other.text && JSON.stringify(one.values) === JSON.stringify(other.values);

    // Before an act that removes or overwrites something of any unit. `label` says what is about to be done, whole, so
    // that it can be looked up in the page's language: "loaded “Autumn”".
    function remember(tab, label) {
        push(tab, {label, time: performance.now(), ...snapshot(tab)});
    }
    function push(tab, entry) {
        const history = histories[tab.name];
        history.push(entry);
        history.splice(0, history.length - LONGEST);
        delete undone[tab.name];
        draw(tab);
    }
    // An act on references, their masks and regions, which `change` does to the state. To undo it leaves all else alone.
    function act(tab, label, change) {
        const entry = {label, time: performance.now(), ...snapshot(tab)}, before = JSON.parse(entry.text);
        tab.changeState((state) => {
            change(state);
            entry.changed = changesOf(before, state);
        });
        push(tab, entry);
    }
    const referencesOf = ({units}) => new Map(units.flatMap(({images}) => images ?? []).map((one) => [one.key, one]));
    function changesOf(before, after) {
        const now = referencesOf(after), was = [...referencesOf(before).values()];
        const differs = (one, part) => now.has(one.key) && now.get(one.key)[part] !== one[part];
        const changed = (part) => new Set(was.filter((one) => differs(one, part)).map(({key}) => key));
        return {
            masks: changed("mask"), places: changed("region"), times: changed("at"),
            regions: new Set(before.units.flatMap(({region}, i) => region !== after.units[i]?.region ? [i] : [])),
        };
    }
    // What has changed nothing after all, like a preset that could not be loaded, is forgotten.
    function settle(tab) {
        const history = histories[tab.name], last = history[history.length - 1];
        if (last && !last.changed && performance.now() - last.time > SETTLED && isSame(last, snapshot(tab))) history.pop();
    }

    // References as they were, in their places; what was set on those that are still there stays, as do those that have
    // been added since.
    function putBack(state, earlier, {masks, places, times, regions}) {
        const now = referencesOf(state), was = referencesOf(earlier);
        const merged = (one) => {
            const later = now.get(one.key), mask = later && !masks.has(one.key) ? later.mask : one.mask;
            const region = later && !places.has(one.key) ? later.region : one.region;
            const at = later && !times.has(one.key) ? later.at : one.at;
            return {...one, waiting: undefined, ...later, mask, region, at};
        };
        state.units.forEach((unit, i) => {
            const {images = [], region} = earlier.units[i] ?? {};
            unit.images = [...images.map(merged), ...(unit.images ?? []).filter(({key}) => !was.has(key))];
            if (regions.has(i)) unit.region = region;
        });
    }
    function undo(tab) {
        const history = histories[tab.name], now = snapshot(tab);
        let last;
        do last = history.pop(); while (last && isSame(last, now));
        if (last?.changed) {
            tab.changeState((state) => putBack(state, JSON.parse(last.text), last.changed));
        } else if (last) {
            undone[tab.name] = {...now, label: last.label};
            setBack(tab, last);
        }
        draw(tab);
        return Boolean(last);
    }
    function setBack(tab, {text, values, isTicked}) {
        const state = JSON.parse(text);
        for (const one of state.units.flatMap(({images}) => images ?? [])) {
            if (one.waiting && !ipAdapter.pictures.isUnderWay(tab, one.key)) delete one.waiting;  // it has come since
        }
        Object.assign(ipAdapter.shownUnit(state), values);
        ipAdapter.units.restore(tab, state);
        if (tab.tick.isSet !== isTicked) tab.tickbox?.click();
    }
    // What an undo of all units has taken away, edits since then among it, comes back.
    function redo(tab) {
        const entry = undone[tab.name];
        if (!entry) return false;
        remember(tab, entry.label);
        setBack(tab, entry);
        return true;
    }

    // The line

    function lineOf(tab) {
        const row = tab.element("drop_area").parentElement;
        let line = row.querySelector(":scope > .ip-adapter-undo");
        if (!line) {
            line = Object.assign(document.createElement("div"), {className: "ip-adapter-undo", hidden: true});
            line.setAttribute("role", "status");
            line.innerHTML = "<button type='button' title='Ctrl+Z'></button>"
                + "<span class='ip-adapter-redo'><button type='button' title='Ctrl+Shift+Z'></button></span>";
            row.append(line);
        }
        return line;
    }
    function draw(tab) {
        const history = histories[tab.name];
        if (!history.length && !tab.element("drop_area").parentElement.querySelector(".ip-adapter-undo")) return;
        const line = lineOf(tab), hadFocus = line.contains(document.activeElement);
        const now = snapshot(tab), last = [...history].reverse().find((entry) => !isSame(entry, now));
        const again = undone[tab.name];
        line.hidden = !last && !again;
        const show = (place, text) => {
            const button = place.querySelector(":scope > button");
            button.hidden = !text;
            if (text && button.dataset.text !== text) button.textContent = button.dataset.text = text;
        };
        show(line, last && `Undo: ${last.label}`);
        show(line.querySelector(".ip-adapter-redo"), again && `Redo: ${again.label}`);
        if (hadFocus && document.activeElement.offsetParent === null) {
            tab.element("drop_area").querySelector("[role=button]").focus({preventScroll: true});
        }
    }

    function onClick(event) {
        const button = event.target.closest?.(".ip-adapter-undo > button");
        if (button) undo(ipAdapter.tabOf(button));
        const again = event.target.closest?.(".ip-adapter-redo > button");
        if (again) redo(ipAdapter.tabOf(again));
    }
    function onKey(event) {
        const {target} = event, tab = target.closest && ipAdapter.early.isUndo(event) && ipAdapter.tabOf(target);
        if (tab && (event.shiftKey ? redo(tab) : undo(tab))) event.preventDefault();
    }

    // Units are about to come from elsewhere: what is done until they have come is done after it. Without a `label`, they
    // overwrite nothing.
    function awaitUnits(tab, label) {
        if (label) remember(tab, label);
        tab.isComing = true;
        ipAdapter.early.hold(() => !tab.isComing);
    }
    function answerPasting(tab, values) {
        awaitUnits(tab, "pasted parameters");
        return values;
    }
    // The host has sent txt2img's units along with a picture; no text where they have been taken over.
    function answerSending(tab, values) {
        const [, text] = values;
        if (text && ipAdapter.page.tabs.txt2img.tick.isSet) awaitUnits(tab, "took over txt2img's units");
        return values;
    }
    async function answerCome(tab) {
        await ipAdapter.pause(0);  // the answer is on view
        tab.isComing = false;
        return [];
    }

    document.addEventListener("click", onClick);
    document.addEventListener("keydown", onKey);
    return {remember, act, settle, undo, draw, awaitUnits, answerPasting, answerSending, answerCome};
})();

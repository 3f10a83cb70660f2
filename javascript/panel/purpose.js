// What a unit is for: the row of purposes, which set it (purpose_row.py); the chips, which tell of what differs from the
// defaults in folded parts; and the folded controls that have no effect, which are not in sight.
(window.ipAdapter ??= {}).purpose = (() => {
    const CHIP = ".ip-adapter-chip button";
    const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
    const read = (tab, name) => JSON.parse(rowOf(tab).dataset[name]);
    const rowOf = (tab) => tab.element("purposes").querySelector(".ip-adapter-purposes");

    // Adapters for FLUX have purposes of their own, and some fields mean nothing to them.

    // The variant of an adapter for FLUX, "" of all others.
    const kindOf = (tab, model) => read(tab, "kinds")[model] ?? "";
    const isMeant = (tab, field, model) => {
        const {notFor} = tab.element(field).dataset;
        return !notFor?.split(" ").includes(kindOf(tab, model));
    };
    // Of a unit's settings those that mean something to its adapter; the others are as good as untouched.
    function meant(tab, unit) {
        const found = {...unit};
        for (const {dataset: {field, notFor, default: own}} of tab.panel.querySelectorAll("[data-not-for]")) {
            if (notFor.split(" ").includes(kindOf(tab, unit.model))) found[field] = JSON.parse(own);
        }
        return found;
    }
    const buttonsOf = (tab, model) => [...rowOf(tab).querySelectorAll("[data-purpose]")].filter(
        (button) => JSON.parse(button.dataset.for).includes(kindOf(tab, model)),
    );

    // Purposes

    // What gradio's components have of the shown unit, and what the state has.
    function settingsOf(tab, unit = tab.shownUnit) {
        const number = (name) => Number(tab.element(name).querySelector("input[type=number]").value);
        const model = tab.element("model").querySelector("input").value;
        const shown = {model, weight: number("weight"), start: number("start"), end: number("end")};
        return {...read(tab, "untouched"), ...unit, ...shown};
    }
    // The purpose that a unit has: the one of its weight type, of Redux the one of how closely it follows; of several,
    // the one whose other settings are nearest.
    function purposeOf(tab, unit) {
        if (unit.layer_weights) return null;
        const defaults = read(tab, "defaults"), isFace = read(tab, "faces").all.includes(unit.model);
        const alike = (name) => Object.keys(defaults[name]).filter((field) => defaults[name][field] === unit[field]).length;
        const telling = read(tab, "telling")[kindOf(tab, unit.model)];
        const all = buttonsOf(tab, unit.model).map((button) => button.dataset.purpose);
        const names = all.filter((name) => !telling || same(defaults[name][telling], unit[telling]));
        const suitable = names.filter((name) => (name === "face") === (isFace && names.includes("face")));
        return suitable.sort((one, other) => alike(other) - alike(one))[0] ?? null;
    }
    // Layer weights stand in the place of a weight type, and go where one is chosen.
    function applied(tab, unit, name) {
        const {face, other, all} = read(tab, "faces"), isFace = all.includes(unit.model), {narrow} = tab.facts;
        Object.assign(unit, read(tab, "defaults")[name]);
        if (unit.layer_weights && isMeant(tab, "layer_weights", unit.model)) unit.layer_weights = "";
        if (unit.weight < narrow[0] || unit.weight > narrow[1]) unit.wide = true;
        const model = (name === "face") === isFace ? null : isFace ? other : face;
        if (model) unit.model = unit.own = model;  // it may be exchanged with the checkpoint
    }
    // Whether somebody has set what a purpose is about to overwrite.
    function isOwn(tab, unit) {
        const defaults = read(tab, "defaults"), untouched = read(tab, "untouched");
        const own = buttonsOf(tab, unit.model).map((button) => defaults[button.dataset.purpose]);
        const fields = [...new Set(own.flatMap(Object.keys))];
        const isLike = (known) => fields.every((field) => !(field in known) || same(known[field], unit[field]));
        return Boolean(unit.layer_weights) || ![untouched, ...own].some(isLike);
    }
    function choose(tab, name) {
        if (isOwn(tab, meant(tab, settingsOf(tab)))) ipAdapter.undo.remember(tab, "chose a purpose");
        return ipAdapter.units.revise(tab, (unit) => applied(tab, unit, name));
    }

    // The first reference of a unit that nobody has set begins with what "Everything" sets. `had`: which units had
    // references before the `state` was changed. A unit that was filled otherwise is never touched.
    const hasReferences = ({images, folder}) => Boolean(images?.length || folder?.trim());
    function begin(tab, state, had) {
        const isUntouched = (unit) => {
            const own = read(tab, "untouched"), is = {...own, ...meant(tab, unit)};
            return !unit.curve && !is.layer_weights && Object.keys(own).every((field) => is[field] === own[field]);
        };
        const start = (unit) => {
            const isFace = read(tab, "faces").all.includes(unit.model);
            const first = buttonsOf(tab, unit.model).find((button) => button.dataset.begins !== undefined);
            if (isUntouched(unit)) applied(tab, unit, isFace ? "face" : first.dataset.purpose);
        };
        state.units.forEach((unit, i) => {
            if (unit.begun || !(hasReferences(unit) || had[i])) return;
            unit.begun = true;
            if (had[i]) return;
            if (i + 1 !== state.shown) start(unit);
            else setTimeout(() => ipAdapter.units.revise(tab, start));
        });
    }

    function drawRow(tab, unit) {
        const row = rowOf(tab), purpose = purposeOf(tab, unit);
        const press = (button, isPressed) => button.setAttribute("aria-pressed", isPressed);
        const there = buttonsOf(tab, unit.model), more = row.querySelector(".ip-adapter-purpose-more");
        for (const button of row.querySelectorAll("[data-purpose]")) {
            button.hidden = !there.includes(button);
            press(button, button.dataset.purpose === purpose);
        }
        more.hidden = !isMeant(tab, "weight_type", unit.model);
        press(more, purpose === null);
        return purpose;
    }

    // Folded controls

    function openAdvanced(tab) {
        tab.element("advanced").querySelector(":scope > .label-wrap:not(.open)")?.click();
    }
    // Every weight type is in its list.
    async function showMore(tab) {
        openAdvanced(tab);
        const list = tab.element("weight_type").querySelector("select");
        await ipAdapter.waitUntil(() => list.offsetParent, 2000);
        list.focus();
        tab.element("weight_type").scrollIntoView({block: "nearest"});
    }
    function hideIdle(tab, unit) {
        const types = read(tab, "types"), type = unit.weight_type;
        const isPositive = ({negative, pose}) => !negative && !pose;
        const hasFolder = Boolean(unit.folder?.trim());
        const isThere = {
            composition: !unit.layer_weights && types.composition.includes(type),
            boost: !unit.layer_weights && types.boost.includes(type),
            // One reference alone may be turned around by it.
            "several references": hasFolder || unit.images?.filter(isPositive).length > 1 || (unit.combine ?? "concat") !== "concat",
            region: Boolean(unit.region || unit.images?.some((reference) => reference.region)),
            // As Settings say is perhaps there, too.
            detailer: unit.acts_in !== "picture" || Boolean(unit.detailer_tab),
        };
        for (const control of tab.element("advanced").querySelectorAll("[data-needs]")) {
            control.classList.toggle("ip-adapter-idle", isThere[control.dataset.needs] === false);
        }
    }

    // Chips: of controls in sight when their part is unfolded, and of the region. What the purpose sets is told by its
    // button.

    function chipsOf(tab, unit, purpose) {
        const chips = unit.region ? [{field: "region", label: "Region", value: ""}] : [];
        const usual = {crop: tab.facts.crop, ...(purpose ? read(tab, "defaults")[purpose] : {})};
        for (const control of tab.element("advanced").querySelectorAll(".ip-adapter-control")) {
            if (control.hidden || control.matches(".ip-adapter-idle")) continue;
            const {field, default: own} = control.dataset, standard = usual[field] ?? JSON.parse(own);
            const value = unit[field] ?? JSON.parse(own);
            if (same(value, standard)) continue;
            const label = control.querySelector("label > span").textContent;
            const option = [...control.querySelectorAll("option")].find((one) => one.value === value);
            chips.push({field, label, standard, value: value === true ? "" : option?.textContent ?? String(value ?? "")});
        }
        return chips;
    }
    function drawChips(tab, unit, purpose) {
        const chips = chipsOf(tab, unit, purpose), row = tab.element("chips"), text = JSON.stringify(chips);
        if (row.dataset.chips === text) return;
        const at = [...row.querySelectorAll("button")].indexOf(document.activeElement);
        row.dataset.chips = text;
        row.replaceChildren(...chips.map((chip) => drawnChip(tab, chip)));
        row.hidden = !chips.length;
        if (at < 0) return;
        const buttons = row.querySelectorAll("button");
        (buttons[Math.min(at, buttons.length - 1)] ?? tab.element("weight").querySelector("input")).focus();
    }
    function drawnChip(tab, {field, label, value, standard}) {
        const made = (name, properties, ...children) => {
            const element = Object.assign(document.createElement(name), properties);
            element.append(...children);
            return element;
        };
        const id = `${tab.name}_ip_adapter_chip_${field}`;
        const cross = made("button", {type: "button", id: `${id}_back`, title: "Set back to the default"}, "✕");
        cross.setAttribute("aria-label", "Set back");
        cross.setAttribute("aria-labelledby", `${id}_back ${id}`);
        Object.assign(cross.dataset, {field, standard: JSON.stringify(standard ?? null)});
        const parts = [made("span", {id}, label), ...value ? [made("span", {}, value)] : [], cross];
        return made("span", {className: "ip-adapter-chip"}, ...parts);
    }
    function setBack(tab, {field, standard}) {
        if (field === "region") {
            ipAdapter.undo.act(tab, "removed the region", (state) => { delete ipAdapter.shownUnit(state).region; });
        } else {
            ipAdapter.undo.remember(tab, "set a value back");
            tab.changeShownUnit((unit) => { unit[field] = JSON.parse(standard); });
        }
    }

    function draw(tab, unit = tab.shownUnit) {
        const settings = meant(tab, settingsOf(tab, unit));
        hideIdle(tab, settings);
        drawChips(tab, settings, drawRow(tab, settings));
    }
    // Once, when the page is there: what belongs together comes together.
    function build(tab, unit) {
        const advanced = tab.element("advanced"), row = document.createElement("div");
        Object.assign(row, {id: `${tab.name}_ip_adapter_chips`, className: "ip-adapter-chips", hidden: true});
        row.setAttribute("role", "group");
        row.setAttribute("aria-label", "Settings under Advanced that are not the defaults");
        advanced.before(advanced.querySelector(".ip-adapter-sight"), row);
        for (const slot of advanced.querySelectorAll("[data-slot]")) slot.append(tab.element(slot.dataset.slot));
        draw(tab, unit);
    }

    async function onClick(event) {
        const button = event.target.closest?.(`.ip-adapter-purposes > button, ${CHIP}`);
        const tab = button && ipAdapter.tabOf(button);
        if (!tab) return;
        const isLacking = button.getAttribute("aria-disabled") === "true";
        rowOf(tab).querySelector(".ip-adapter-purpose-why").textContent = isLacking ? button.title : "";
        if (button.matches(CHIP)) setBack(tab, button.dataset);
        else if (button.matches(".ip-adapter-purpose-more")) showMore(tab);
        else if (button.matches(".ip-adapter-purpose-menu")) (await ipAdapter.loadSubject("purposes")).toggle(tab, button);
        else if (!isLacking) choose(tab, button.dataset.purpose);
    }
    document.addEventListener("click", onClick);
    return {begin, hasReferences, build, draw, purposeOf, settingsOf, kindOf, isMeant};
})();

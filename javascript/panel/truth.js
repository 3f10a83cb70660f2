// What really takes part in the next picture: the badge in the panel's head, the tabs of the units with their signs, the
// line that asks where references are in view and the panel is not ticked, and what is said of a field that is wrong or
// that another one stands in for.
(window.ipAdapter ??= {}).truth = (() => {
    const TITLES = {
        part: "This unit takes part.",
        unticked: "This unit takes no part: IP-Adapter is not ticked.",
        disabled: "This unit takes no part: it is not enabled.",
        empty: "This unit takes no part: it has no reference.",
        negative: "This unit takes no part: it has only negative references.",
        pose: "This unit takes no part: it has only a picture for the pose.",
        model: "This unit takes no part: it has no model.",
        weight: "This unit takes no part: its weight is 0 everywhere.",
        region: "This unit takes no part: its region is empty.",
    };
    const isOverTime = (references) => {
        const shown = references.filter((one) => !one.negative && !one.pose);
        return shown.length > 1 && shown.some(({at}) => at !== undefined);
    };
    const SIGNS = [
        ["▣", "It acts in a region.", (unit) => Boolean(unit.region || unit.images?.some(({region}) => region))],
        ["◷", "Its references stand over time.", (unit) => isOverTime(unit.images ?? [])],
        ["∿", "Its weight changes over the steps.", (unit) => Boolean(unit.curve?.trim())],
        ["−", "It has negative references.", (unit) => Boolean(unit.images?.some(({negative}) => negative))],
    ];

    // Whether a unit takes part: what a job makes of it (jobs/plans.py, `Plan.acts`), as far as the page knows it

    const isPositive = ({negative, pose}) => !negative && !pose;
    // Of a text of numbers, or of pairs of a number and a number, each pair's second: whether all are 0.
    function isAllZero(text) {
        const words = (text ?? "").split(/[\s,;]+/).filter(Boolean);
        return words.length > 0 && words.every((word) => Number(word.split(":").at(-1)) === 0);
    }
    function isSilent(tab, unit, {model, weight}) {
        if (unit.curve?.trim() ? isAllZero(unit.curve) : weight === 0) return true;
        if (isAllZero(unit.layer_weights) && ipAdapter.purpose.isMeant(tab, "layer_weights", model)) return true;
        const hasMore = /^(faceid|instantid)/.test(tab.variants[model] ?? "");  // a LoRA or keypoints beside its tokens
        if (unit.folder?.trim()) return false;
        return !hasMore && (unit.images ?? []).filter(isPositive).every((reference) => reference.weight === 0);
    }
    // Why it takes no part, one of TITLES; "part" where it does.
    function part(tab, unit, values) {
        const references = unit.images ?? [], hasFolder = Boolean(unit.folder?.trim());
        if (!values.enabled) return "disabled";
        if (!references.length && !hasFolder) return "empty";
        if (!hasFolder && !references.some(isPositive)) return references.some(({negative}) => negative) ? "negative" : "pose";
        if (!values.model || values.model === "None") return "model";
        if (tab.emptyMasks.has(unit.region)) return "region";
        return isSilent(tab, unit, values) ? "weight" : "part";
    }
    // What gradio's components hold for the unit that is shown, which the state does not have yet.
    function noteShown(tab, [enabled, model, weight]) {
        tab.shownValues = {enabled, model, weight};
    }
    function valuesOf(tab, state, i) {
        if (i + 1 === state.shown) return tab.shownValues;
        const {enabled, model, weight} = state.units[i];
        return {enabled: enabled !== false, model, weight: weight ?? 1};
    }

    // What is seen of it

    function draw(tab, state) {
        const row = tab.element("units").querySelector(".ip-adapter-units");
        const parts = state.units.map((unit, i) => part(tab, unit, valuesOf(tab, state, i)));
        parts.forEach((own, i) => {
            const button = row.children[i], isSet = tab.tick.isSet;
            button.classList.toggle("ip-adapter-used", own === "part" && isSet);
            button.title = TITLES[own === "part" && !isSet ? "unticked" : own];
            drawSigns(button, state.units[i]);
        });
        const isInView = (unit, i) => parts[i] !== "disabled" && parts[i] !== "empty";
        tab.tick.isLeavingOut = !tab.tick.isSet && state.units.some(isInView);
        tab.element("unused").hidden = !tab.tick.isLeavingOut || tab.tick.isAnswered;
        drawBadge(tab, parts.filter((own) => own === "part").length);
        for (const line of tab.element("units").querySelectorAll(".ip-adapter-lone")) {
            line.hidden = line.dataset.part !== parts[state.shown - 1];
        }
    }
    function drawSigns(button, unit) {
        const signs = SIGNS.filter(([, , has]) => has(unit));
        const shown = signs.map(([sign]) => sign).join("");
        if ((button.dataset.signs ?? "") === shown) return;
        button.dataset.signs = shown;
        button.querySelectorAll("i").forEach((one) => one.remove());
        for (const [sign, title] of signs) {  // drawn by the style: the text is the unit's name alone
            const element = Object.assign(document.createElement("i"), {title});
            element.setAttribute("role", "img");
            element.setAttribute("aria-label", title);
            element.dataset.sign = sign;
            button.append(element);
        }
    }
    function drawBadge(tab, count) {
        const badge = tab.panel.querySelector(":scope > .label-wrap > .ip-adapter-badge");
        if (!badge) return;
        const {isSet, isLeavingOut} = tab.tick;
        const units = count === 1 ? "1 unit" : count ? `${count} units` : "no unit";
        const text = isSet ? units : isLeavingOut ? "left out" : "";
        badge.classList.toggle("ip-adapter-lit", isSet && count > 0);
        badge.title = isSet
            ? "How many units take part in the next picture."
            : "IP-Adapter is not ticked: its references are left out.";
        if (badge.dataset.text !== text) badge.textContent = badge.dataset.text = text;
    }
    // In the head, where it is seen of a folded panel, too; as is the line that asks.
    function build(tab) {
        const head = tab.panel.querySelector(":scope > .label-wrap");
        const badge = Object.assign(document.createElement("span"), {className: "ip-adapter-badge"});
        badge.setAttribute("role", "status");
        head.insertBefore(badge, head.lastElementChild);
        head.after(tab.element("unused"));
        const instead = Object.assign(document.createElement("small"), {
            className: "ip-adapter-instead", textContent: "“Weight over the steps” counts in its place.", hidden: true,
        });
        tab.element("weight").append(instead);
    }

    // References that are in view, beside a panel that is not ticked. The picture is made all the same, since who has
    // pressed may be far from the page; it is said at each press until it was answered.

    function onGenerate(event) {
        const tab = Object.values(ipAdapter.page.tabs).find(({name}) => event.target.closest?.(`#${name}_generate`));
        if (tab?.panel && tab.tick.isLeavingOut && !tab.tick.isAnswered) ipAdapter.page.tabs.txt2img.press("unticked");
    }
    function onAnswer(event) {
        const button = event.target.closest?.(".ip-adapter-left-out button");
        if (!button) return;
        const tab = ipAdapter.tabOf(button);
        if (button.matches(".ip-adapter-use")) ipAdapter.units.tick(tab);
        else tab.tick.isAnswered = true;
        draw(tab, tab.state);
        tab.tickbox.focus({preventScroll: true});  // the line is about to go, or has gone
    }

    // The curve stands in the place of the weight, whose slider does nothing then.
    function showCurve(tab, unit) {
        const hasCurve = Boolean(unit.curve?.trim()), weight = tab.element("weight");
        weight.classList.toggle("ip-adapter-stood-in", hasCurve);
        weight.querySelector(".ip-adapter-instead").hidden = !hasCurve;
        for (const field of weight.querySelectorAll("input")) field.disabled = hasCurve;
    }
    // Why what is written in a field cannot be used stands below it; the server has said it with the bars.
    function showReasons(tab) {
        const bars = tab.element("bars");
        for (const control of tab.element("advanced").querySelectorAll(".ip-adapter-control[data-checked]")) {
            const reason = bars.querySelector(`[data-wrong="${control.dataset.field}"]`)?.textContent ?? "";
            const line = control.querySelector(".ip-adapter-reason"), field = control.querySelector("input");
            if (line.textContent !== reason) line.textContent = reason;
            field.setAttribute("aria-invalid", Boolean(reason));
        }
    }

    // Masks without anything white: the server says it where it draws them.
    function noteMasks(tab) {
        const region = tab.element("region").querySelector(".ip-adapter-region");
        JSON.parse(region?.dataset.empty ?? "[]").forEach((key) => tab.emptyMasks.add(key));
        const variant = tab.element("details").querySelector("[data-variant]")?.dataset.variant;
        if (variant) tab.variants[tab.shownValues.model] = variant;
        draw(tab, tab.state);
    }

    // "From ControlNet" asks before a unit is overwritten (controlnet_bar.py). A yes is pressing it again, and goes with
    // the state that is sent then, which is not changed by it.
    function replace(tab) {
        tab.isReplacing = true;
        tab.press("controlnet_from");
    }
    function askFromControlNet(tab, [name, text, ...values]) {
        const state = tab.isReplacing ? JSON.stringify({...JSON.parse(text), replace: true}) : text;
        const label = tab.isReplacing ? "took over ControlNet's unit" : "";
        if (!tab.isReplacing) tab.presets.button = tab.element("controlnet_from");
        ipAdapter.undo.awaitUnits(tab, label);
        tab.isReplacing = false;
        return [name, state, ...values];
    }
    async function answerFromControlNet(tab) {
        await ipAdapter.undo.answerCome(tab);
        return ipAdapter.presets.answerNote(tab);
    }

    document.addEventListener("click", onGenerate, true);
    document.addEventListener("click", onAnswer);
    return {
        build, draw, noteShown, noteMasks, showCurve, showReasons, replace, askFromControlNet, answerFromControlNet,
    };
})();

// What is done in a panel before its scripts are here and what was kept is back in it: that is done then, in its order.
// So is what is done while something is on its way to the units, like a preset, which would overwrite it. The WebUI
// loads this file with its page.
(window.ipAdapter ??= {}).early = (() => {
    // {act: what is to be done, null for nothing after all; of: the field that it sets, if it sets one}
    const acts = [];
    const over = new AbortController();
    let isHeld = true;
    const awaited = [];  // of each that is on its way: whether it has come
    const LONGEST = 10_000;  // milliseconds: what has not come by then is not waited for
    // Where the scripts are here, what they do themselves is done at once.
    const isTaken = (event) => isHeld && (event.isTrusted || !ipAdapter.isReady?.());
    const tabs = () => Object.values(ipAdapter.page?.tabs ?? {}).filter(({panel}) => panel);
    const tabAt = (node) => node instanceof Node ? tabs().find(({panel}) => panel.contains(node)) : undefined;
    const elementOf = ({target}) => target instanceof Element ? target : target.parentElement;

    // The event reaches none of the panel's scripts that may be there already: these need each other. Of a field only
    // what was last set counts.
    function put(event, act, of = null) {
        event.stopImmediatePropagation();
        if (of && acts.at(-1)?.of === of) acts.pop();
        acts.push({act, of});
    }

    // What is drawn anew

    const MARKS = ["purpose", "do", "file", "region", "model"];
    // A selector of an element in what the server draws anew, which finds the one that comes in its place; null for one
    // that nothing tells from others. `place`: what is drawn anew.
    function selectorOf(element, place = element.closest("[id]")) {
        const mark = MARKS.find((name) => element.dataset[name] !== undefined);
        if (place && mark) return `#${place.id} [data-${mark}="${CSS.escape(element.dataset[mark])}"]`;
        const [name] = element.matches("button") ? element.classList : [];
        return place && name && place.getElementsByClassName(name).length === 1 ? `#${place.id} .${name}` : null;
    }

    // Events

    // Pictures are chosen, dropped and pasted by what these say, early or not: {tab, content}, null for no pictures.
    // The panel's own cards are none (moves.js), whatever a browser adds to them.
    const isPictures = ({types}) =>
        !types.includes(ipAdapter.moves?.TYPE) && ["Files", "text/uri-list"].some((type) => types.includes(type));
    function dropped({target, dataTransfer: data}) {
        const tab = data && isPictures(data) && tabAt(target);
        if (!tab) return null;
        const content = {  // the event's own is empty afterwards
            files: [...data.files], html: data.getData("text/html"), list: data.getData("text/uri-list"),
            entries: [...data.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean),
        };
        return {tab, content};
    }
    function pasted({target, clipboardData: data}) {  // for the panel that has the focus or is pointed at
        const tab = tabAt(document.activeElement) ?? tabs().find(({panel}) => panel.matches(":hover"));
        const files = [...(data?.files ?? [])].filter((file) => file.type.startsWith("image/"));
        const isField = target.matches?.("textarea, input:not([type=checkbox], [type=range], [type=file])");
        return !tab || !files.length || isField && data.getData("text/plain") ? null : {tab, content: {files}};
    }
    function chosen({target}) {
        const tab = target.matches?.(".ip-adapter-drop-area input[type=file]") ? tabAt(target) : null;
        if (!tab || !target.files.length) return null;
        const files = [...target.files];
        target.value = "";  // so that the same can be chosen again
        return {tab, content: {files}};
    }

    // Buttons of a panel, and those that send pictures to one (send_to.py); not those that scripts alone press.
    function isOurs(button) {
        if (button.matches(".label-wrap") || getComputedStyle(button).display === "none") return false;
        return Boolean(tabAt(button)) || button.id.endsWith("_send_to_ip_adapter");
    }
    // The button, or the one that comes in its place until then, is pressed. A reference has none in its place.
    function pressOf(button) {
        const selector = button.closest(".ip-adapter-card") ? null : selectorOf(button);
        return () => (button.isConnected ? button : selector && document.querySelector(selector))?.click();
    }
    // For a button that is pressed without a click of the browser's.
    function press(button) {
        if (isHeld) acts.push({act: pressOf(button), of: null});
        else button.click();
    }
    // The panel's tick is set at once, and again in its turn: what comes before may have set it, too.
    function onTick({tickbox, tick}) {
        const {checked} = tickbox;
        tick.clicked = Infinity;
        acts.push({act: () => { if (tickbox.checked !== checked) tickbox.click(); }, of: tickbox});
    }
    function onClick(event) {
        const target = elementOf(event), button = target?.closest("button"), tab = target && tabAt(target);
        if (tab && tab.tickbox === target && event instanceof MouseEvent) onTick(tab);
        if (!button || target.matches("input[type=file]") || !isOurs(button)) return;
        const files = button.dataset.order === "null" && tab?.element("preset_file")?.querySelector("input[type=file]");
        if (files) {  // "Import presets": a browser lets nobody open its dialog later
            event.stopImmediatePropagation();
            return files.click();
        }
        put(event, pressOf(button));
    }
    // Of keys, those that choose a unit, move a reference, and undo.
    const isText = (element) => element.matches?.("textarea, select, input:not([type=checkbox], [type=range])");
    function isUndo({key, code, ctrlKey, metaKey, target}) {
        const isZ = key?.toLowerCase() === "z" || code === "KeyZ" && !/^[a-z]$/i.test(key);
        return isZ && (ctrlKey || metaKey) && !isText(target);
    }
    function isMove({key, altKey, target}) {
        const places = altKey ? ".ip-adapter-units, .ip-adapter-card" : ".ip-adapter-units";
        return ["ArrowLeft", "ArrowRight", "Home", "End"].includes(key) && Boolean(target.closest?.(places));
    }
    function onKey(event) {
        const {target} = event, tab = tabAt(target), again = new KeyboardEvent(event.type, event);
        if (!tab || !isMove(event) && !isUndo(event)) return onComponent(event);
        event.preventDefault();
        put(event, () => (target.isConnected ? target : tab.panel).dispatchEvent(again));
    }
    // A control of our own gets its value again: until then it shows the one that counts. Where another one waits, because
    // somebody has gone on typing, it shows that one on.
    function onControl(event) {
        const field = event.target, name = field.type === "checkbox" ? "checked" : "value", value = field[name];
        const show = (one) => { if (field[name] !== one) field[name] = one; };  // the caret stays where it is
        put(event, () => {
            const shown = field[name];
            show(value);
            field.dispatchEvent(new Event("input", {bubbles: true}));
            if (acts.some(({of}) => of === field)) show(shown);
        }, field);
    }
    // One of gradio's has its value at once. It gets it again after what was done before, and after what was kept.
    function onComponent({target}) {
        const tab = tabAt(target), field = tab?.facts.fields.find((name) => tab.element(name)?.contains(target));
        if (!field) return;
        const of = tab.element(field), valueNow = () => tab.shownFields[field];
        if (acts.at(-1)?.of !== of) acts.push({act: null, of, before: valueNow()});
        const entry = acts.at(-1);
        setTimeout(() => {
            const value = valueNow(), set = () => { ipAdapter.units.revise(tab, (unit) => { unit[field] = value; }); };
            entry.act = value === entry.before ? null : set;
        });
    }
    function onPictures(event, found) {
        if (!found) return;
        const {target} = event;
        event.preventDefault();  // the browser would open a file in the place of the page
        put(event, () => ipAdapter.dropping.take(found.tab, found.content, ipAdapter.dropping.unitAt(target)));
    }
    // A card that is dragged stays where it is: what comes is about to take its place.
    const isCard = ({dataTransfer: data, target}) => data?.types.includes(ipAdapter.moves?.TYPE) && tabAt(target);
    const OWN = ".ip-adapter-control, .ip-adapter-card";
    const EVENTS = {
        click: onClick,
        input: (event) => (event.target.closest?.(OWN) ? onControl : onComponent)(event),
        change(event) {
            if (event.target.matches?.(".ip-adapter-drop-area input")) onPictures(event, chosen(event));
            else onComponent(event);
        },
        mousedown: onComponent,
        keydown: onKey,
        focusout: onComponent,
        dragover(event) {
            if (event.dataTransfer && isPictures(event.dataTransfer) && tabAt(event.target)) event.preventDefault();
        },
        drop(event) {
            if (isCard(event)) event.stopImmediatePropagation();
            else onPictures(event, dropped(event));
        },
        paste: (event) => onPictures(event, pasted(event)),
    };
    for (const [type, take] of Object.entries(EVENTS)) {
        window.addEventListener(type, (event) => { if (isTaken(event)) take(event); }, {
            capture: true, signal: over.signal,
        });
    }

    // Files can be chosen whatever scripts are here: a browser lets nobody open its dialog later.

    const DROP_AREA = ".ip-adapter-drop-area";
    function openFiles({target}) {
        const area = target.closest?.(DROP_AREA);
        if (area && !target.matches("input")) area.querySelector("input").click();
    }
    document.addEventListener("click", openFiles);
    document.addEventListener("keydown", (event) => {
        if (!event.target.matches?.(DROP_AREA) || !["Enter", " "].includes(event.key)) return;
        event.preventDefault();
        openFiles(event);
    });

    // Gradio's answers are in the page; some versions of it put them there with a frame.
    async function follow() {
        await ipAdapter.pause(0);
        await Promise.race([ipAdapter.pause(100), new Promise((resolve) => requestAnimationFrame(resolve))]);
    }
    async function come() {
        if (!awaited.length) return;
        await ipAdapter.waitUntil(() => awaited.every((hasCome) => hasCome()), LONGEST);
        awaited.length = 0;
        await follow();
    }
    // In a task of its own, so that one that fails stops no other; and what follows from it comes before the next one,
    // what has been ordered from the server among it.
    async function perform(act) {
        await new Promise((resolve) => setTimeout(() => {
            resolve();
            act();
        }));
        await follow();
        await ipAdapter.waitUntil(() => tabs().every(({presets}) => presets.order === null), LONGEST);
        await come();
    }
    // The scripts are here, and what was kept is back. What is done while this goes on is done after it.
    async function end() {
        await ipAdapter.pause(0);  // gradio's components have what was last set in them
        await come();
        while (acts.length) {
            await ipAdapter.onView();
            const {act} = acts.shift();
            if (act) await perform(act);
        }
        isHeld = false;
    }
    // Something is on its way to the units: what is done in the panel from now on is done when it `hasCome`.
    function hold(hasCome) {
        awaited.push(hasCome);
        if (isHeld) return;  // what was done before has its turn, and then this
        isHeld = true;
        end();
    }
    // Where the scripts do not come, or there is no panel.
    function stop() {
        isHeld = false;
        over.abort();
    }
    return {selectorOf, isPictures, isUndo, dropped, pasted, chosen, press, end, hold, stop};
})();

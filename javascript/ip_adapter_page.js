// The page's state: one object for each tab with a panel, which holds everything that is known about that tab, and the
// way to its elements, its hidden boxes and its state. The WebUI loads this file with its page; those in panel/ follow
// when the page is on view, so that nobody waits for them, and those in opened/ when they are first wanted. Each adds
// its subject to the object `ipAdapter`. Functions named answer… answer gradio's events: they are given the values of
// the event's inputs and return its outputs.
Object.assign(window.ipAdapter ??= {}, (() => {
    const byId = (id) => gradioApp().getElementById(id);
    const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
    // What gradio 4 answers comes with a frame, and a page in the background has none: that time does not count.
    async function waitUntil(condition, milliseconds) {
        for (let end = Infinity; !condition(); await pause(10)) {
            end = document.hidden ? Infinity : Math.min(end, Date.now() + milliseconds);
            if (Date.now() >= end) return false;
        }
        return true;
    }
    // Resolves when the page is on view, and what has waited for that is in it.
    async function onView() {
        if (!document.hidden) return;
        await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, {once: true}));
        await new Promise((resolve) => requestAnimationFrame(resolve));
    }
    function newKey() {
        return [...crypto.getRandomValues(new Uint8Array(6))].map((x) => x.toString(16).padStart(2, "0")).join("");
    }
    const shownUnit = (state) => state.units[state.shown - 1];

    class Tab {
        constructor(name) {
            this.name = name;
            // The number of the unit to which the panel is being switched.
            this.requestedUnit = null;
            // Changes of the shown unit that wait for the values of gradio's components.
            this.revisions = [];
            // The cards: what they show or are about to show, the stamp of the last request for them, how many requests
            // before it went unheard, the model for which they are drawn (null while they are asked for), and what has the
            // focus among what is drawn with them, or had it until it was drawn anew (a selector).
            this.cards = {look: null, stamp: null, failures: 0, model: null, focus: null};
            // The bars: the strength that they show or are about to show, the timer that runs until a slider rests,
            // and is running, whether a request has not been answered yet, and whether another one has to follow it.
            this.bars = {strength: null, timer: null, isResting: false, isAwaited: false, isOutdated: false};
            // Pictures on their way to the session: those that wait, whether one is being delivered, its key, and the
            // function that takes the server's receipt for it.
            this.delivery = {queue: [], isRunning: false, key: null, onReceipt: null};
            // The panel's tick: whether it is set, when somebody clicked it last, whether references are in view that it
            // leaves out, and whether somebody has answered that this is meant.
            this.tick = {isSet: false, clicked: -Infinity, isLeavingOut: false, isAnswered: false};
            // What gradio's components hold of the shown unit, the variant of each model that was seen, and the keys of
            // masks in which nothing counts.
            this.shownValues = {enabled: true};
            this.variants = {};
            this.emptyMasks = new Set();
            // Presets: the order that is being carried out, the button that was pressed last, and the names for which the
            // list has been opened again.
            this.presets = {order: null, button: null, reopened: null};
            // The shelf: the last question's answer, and the function that takes the next one.
            this.shelf = {answered: Promise.resolve(), onAnswer: null};
            // A state to which all units are about to be set back, and whether units of another place, pasted ones for
            // example, are on their way from the server.
            this.restored = null;
            this.isComing = false;
            // What is kept of the panel in the browser: texts from the inbox and files by their pictures' keys, and the
            // timer that runs until nothing changes any more.
            this.keep = {arrived: new Map(), files: new Map(), timer: null};
        }
        get panel() {
            return byId(`${this.name}_ip_adapter`);
        }
        get tickbox() {
            return this.panel?.querySelector(":scope > .label-wrap .input-accordion-checkbox");
        }
        element(name) {
            return byId(`${this.name}_ip_adapter_${name}`);
        }
        press(name) {
            this.element(name)?.click();
        }
        // What the script of the page has to know about the panel, as the server has written it (editor.py).
        get facts() {
            return JSON.parse(this.element("units").querySelector(".ip-adapter-units").dataset.facts);
        }

        // What gradio's components show of the shown unit, by their fields.
        get shownFields() {
            const valueOf = (field) => {
                const id = `${this.name}_ip_adapter_${field}`;
                return gradio_config.components.find(({props}) => props?.elem_id === id)?.props.value;
            };
            return Object.fromEntries(this.facts.fields.map((field) => [field, valueOf(field)]));
        }

        // Hidden boxes

        hiddenBox(name) {
            return this.element(name)?.querySelector("textarea, input");
        }
        writeBox(name, text) {
            const field = this.hiddenBox(name);
            field.value = text;
            updateInput(field);
        }

        // The state: all units' settings as a text (panel_state.py). It is changed only here, and by answers that set
        // everything at once; so nothing that is under way can undo what is done meanwhile.

        get state() {
            return JSON.parse(this.hiddenBox("state").value);
        }
        get shownUnit() {
            return shownUnit(this.state);
        }
        changeState(change) {
            ipAdapter.undo.settle(this);
            const state = this.state, had = state.units.map(ipAdapter.purpose.hasReferences);
            change(state);
            ipAdapter.purpose.begin(this, state, had);
            this.writeBox("state", JSON.stringify(state));
        }
        changeShownUnit(change) {
            this.changeState((state) => change(shownUnit(state)));
        }
    }

    const tabs = {txt2img: new Tab("txt2img"), img2img: new Tab("img2img")};
    const page = {
        tabs,
        // The id of a component -> the value that it had before anybody has touched it.
        initialValues: {},
        // The tab with a panel that was open last.
        lastTab: tabs.txt2img,
        // The checkpoint for which the lines about the models are drawn.
        checkpoint: undefined,
    };
    // The tabs that the page has a panel in; the WebUI may leave one out.
    const shownTabs = () => Object.values(tabs).filter(({panel}) => panel);
    const tabOf = (element) => Object.values(tabs).find(({name}) => element.closest(`[id^=${name}_ip_adapter]`));
    function noteLastTab() {
        const isOpen = ({name}) => get_uiCurrentTabContent()?.id === `tab_${name}`;
        page.lastTab = shownTabs().find(isOpen) ?? page.lastTab;
    }

    // Scripts beside this one

    function addScript(path) {
        const own = document.querySelector("script[src*='ip_adapter_page.js']").src;
        const script = Object.assign(document.createElement("script"), {
            async: false,  // they run in their order
            src: own.replace(/ip_adapter_page\.js.*$/, `${path}.js?${shownTabs()[0].facts.scripts}`),
        });
        return new Promise((resolve, reject) => {
            script.onload = resolve;
            script.onerror = () => reject(new Error(`IP-Adapter: ${script.src} cannot be loaded`));
            document.head.append(script);
        });
    }
    // A script that has not come has not run, so it can be asked for again.
    async function loadScript(path) {
        for (const wait of [500, 2000, 5000]) {
            try {
                return await addScript(path);
            } catch {
                await pause(wait);
            }
        }
        return addScript(path);
    }
    // What is rarely used: `opened/NAME.js`. Resolves with its subject.
    const loading = {};
    async function loadSubject(name) {
        loading[name] ??= loadScript(`opened/${name}`);
        try {
            await loading[name];
        } catch (error) {
            delete loading[name];
            throw error;
        }
        return ipAdapter[name];
    }
    // What every panel needs.
    const PANEL = [
        "units", "drawings", "cards", "references", "pictures", "dropping", "moves", "notes", "undo", "presets", "purpose",
        "truth", "shelf",
    ];
    let isReady = false, readied;
    const ready = new Promise((resolve) => { readied = resolve; });
    async function loadPanel() {
        if (!shownTabs().length) return ipAdapter.early.stop();
        try {
            await Promise.all(PANEL.map((name) => loadScript(`panel/${name}`)));
            shownTabs().forEach(begin);
        } catch (error) {
            ipAdapter.early.stop();
            shownTabs().forEach(tellFailure);
            throw error;
        }
        isReady = true;
        readied();
        try {
            await onView();
            await Promise.race([ipAdapter.shelf.begin(), pause(10_000)]);  // the browser's database may never answer
        } finally {
            await ipAdapter.early.end();
        }
    }
    function tellFailure(tab) {
        const line = Object.assign(document.createElement("div"), {className: "ip-adapter-note ip-adapter-problem"});
        line.setAttribute("role", "alert");
        const sentence = text("The panel's scripts do not come from the server: reload the page.");
        line.textContent = `⚠ ${sentence}`;
        tab.element("note").after(line);
    }

    // Does what the subject's function does: "units.answerShow" for a tab and an event's values, at once where it can.
    function call(name, ...values) {
        const [subject, method] = name.split(".");
        const run = () => ipAdapter[subject][method](...values);
        return isReady ? run() : ready.then(run);
    }

    // Words in the language of the page. The WebUI's table has English text -> translation; in ours, {} stands for a
    // number or a name, and a word that others may use too has the prefix, so that their pages stay as they are.
    // The WebUI translates whole texts by itself, but no attributes of what comes later, nothing with an emoji and
    // nothing with a number; so everything in the panel is looked up here.

    const OURS = "[id*='_ip_adapter'], [class*='ip-adapter']", PREFIX = "IP-Adapter: ";
    const ATTRIBUTES = ["title", "placeholder", "aria-label", "alt"];
    const NAMES = "[id$=_ip_adapter_preset_chosen] ul.options";  // people have given them
    const OTHERS = `script, style, textarea, [translate=no], ${NAMES}`;
    const table = () => window.localization ?? {};
    const isTranslated = () => Object.keys(table()).length > 0;
    let templates = null;
    // Those with values, the longest first: the one that leaves least to a value is the one that is meant.
    function templatesOf(translations) {
        const quoted = (part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
        const keys = Object.keys(translations).filter((key) => key.includes("{}"));
        const found = keys.map((key) => [key.startsWith(PREFIX) ? key.slice(PREFIX.length) : key, translations[key]]);
        return found.sort(([one], [other]) => other.length - one.length).map(([english, translation]) => {
            const pattern = new RegExp(`^${english.split("{}").map(quoted).join("(.+?)")}$`, "s");
            // What stands in quotation marks is a name that somebody has given.
            const around = english.split("{}"), isName = (i) => around[i].endsWith("“") && around[i + 1].startsWith("”");
            return [pattern, translation.split("{}"), around.slice(1).map((_, i) => isName(i))];
        });
    }
    function text(english) {
        const translations = table(), whole = translations[PREFIX + english] ?? translations[english];
        if (whole !== undefined) return whole;
        if (english.startsWith("⚠ ")) return `⚠ ${text(english.slice(2))}`;
        templates ??= templatesOf(translations);
        for (const [pattern, parts, names] of templates) {
            const values = pattern.exec(english)?.slice(1).map((value, i) => names[i] ? value : text(value));
            if (values) return parts.map((part, i) => (i ? values[i - 1] : "") + part).join("");
        }
        return english;
    }
    function translateAttributes(element) {
        if (element.closest(NAMES)) return;
        for (const name of ATTRIBUTES) {
            const value = element.getAttribute(name), translation = value && text(value);
            if (value !== translation) element.setAttribute(name, translation);
        }
    }
    function translateText(node) {
        const value = node.textContent.trim();
        const isOthers = !value || !node.parentElement || node.parentElement.closest(OTHERS);
        const translation = isOthers ? value : text(value);
        if (value !== translation) node.textContent = node.textContent.replace(value, () => translation);
    }
    function translate(root) {
        if (!isTranslated()) return;
        translateAttributes(root);
        root.querySelectorAll(ATTRIBUTES.map((name) => `[${name}]`).join()).forEach(translateAttributes);
        const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
        for (let node = walker.nextNode(); node; node = walker.nextNode()) translateText(node);
    }
    // What is there, and what comes or changes later, in the panel and elsewhere.
    function followLanguage() {
        if (!isTranslated()) return;
        new MutationObserver((changes) => {
            for (const {type, target, addedNodes} of changes) {
                if (type === "attributes" && target.closest(OURS)) translateAttributes(target);
                for (const node of addedNodes) {
                    if (node.nodeType === Node.TEXT_NODE && node.parentElement?.closest(OURS)) translateText(node);
                    if (node.nodeType === Node.ELEMENT_NODE && node.closest(OURS)) translate(node);
                }
            }
        }).observe(document.body, {childList: true, subtree: true, attributes: true, attributeFilter: ATTRIBUTES});
        for (const element of document.querySelectorAll(OURS)) {
            if (!element.parentElement.closest(OURS)) translate(element);
        }
    }

    onUiLoaded(() => {
        for (const {props} of gradio_config.components) {
            if (props?.elem_id?.includes("_ip_adapter_")) page.initialValues[props.elem_id] = props.value;
        }
    });
    // The tick in the panel's head says whether units take part. The host sets it when the panel is opened and takes it
    // away when the panel is folded, until it is clicked: here looking at a panel changes nothing, so it is told of a
    // click, which is none of a mouse and sets nothing.
    function unlinkTick(tab) {
        tab.tickbox?.dispatchEvent(new Event("click"));
    }
    function begin(tab) {
        const {state} = tab, unit = shownUnit(state);
        ipAdapter.truth.build(tab);
        ipAdapter.drawings.build(tab);
        ipAdapter.units.drawRow(tab, state);
        ipAdapter.units.fillControls(tab, unit);
        ipAdapter.drawings.noteLook(tab, state);
        ipAdapter.units.showVariantsControls(tab);
        ipAdapter.purpose.build(tab, unit);
        ipAdapter.drawings.noteStrength(tab, unit);
        if (tab.panel.querySelector(":scope > .label-wrap.open")) ipAdapter.drawings.showOpened(tab);
    }

    onUiLoaded(() => Object.values(tabs).forEach(unlinkTick));
    onUiLoaded(loadPanel);
    onUiLoaded(followLanguage);
    onUiTabChange(noteLastTab);

    // The settings page calls these by name (options.py).
    const unload = () => tabs.txt2img.press("unload");
    const installFaces = () => tabs.txt2img.press("install_faces");
    return {
        page, tabOf, noteLastTab, byId, pause, waitUntil, onView, newKey, shownUnit, loadSubject, call, text, unload,
        installFaces, isReady: () => isReady,
    };
})());

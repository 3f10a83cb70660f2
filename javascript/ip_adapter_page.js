// The page's state: one object for each tab with a panel, which holds everything that is known about that tab, and the
// way to its elements, its hidden boxes and its state. The files beside this one may be loaded in any order: each adds
// its subject to the object `ipAdapter`, and they call each other only once something happens in the page. Functions
// named answer… answer gradio's events: they are given the values of the event's inputs and return its outputs.
Object.assign(window.ipAdapter ??= {}, (() => {
    const byId = (id) => gradioApp().getElementById(id);
    const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
    async function waitUntil(condition, milliseconds) {
        for (const end = Date.now() + milliseconds; Date.now() < end; await pause(10)) {
            if (condition()) return true;
        }
        return false;
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
            // The cards: what they show or are about to show, the stamp of the last request for them, and how many
            // requests before it went unheard.
            this.cards = {look: null, stamp: null, failures: 0};
            // The bars: the strength that they show or are about to show, the timer that runs until a slider rests,
            // whether a request has not been answered yet, and whether another one has to follow it.
            this.bars = {strength: null, timer: null, isAwaited: false, isOutdated: false};
            // Pictures on their way to the session: those that wait, whether one is being delivered, and the function
            // that takes the server's receipt for it.
            this.delivery = {queue: [], isRunning: false, onReceipt: null};
            // The panel's tick: whether it is set, when somebody clicked it last, and whether a press of Generate has
            // said that it is not.
            this.tick = {isSet: false, clicked: -Infinity, isMissed: false};
            // Presets: the order that is being carried out, and the button that was pressed last.
            this.presets = {order: null, button: null};
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
            const state = this.state;
            change(state);
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
        // The place for pictures that the pointer was over last.
        pointedDropArea: null,
    };
    const tabOf = (element) => Object.values(tabs).find(({name}) => element.closest(`[id^=${name}_ip_adapter]`));
    function noteLastTab() {
        const isOpen = ({name}) => get_uiCurrentTabContent()?.id === `tab_${name}`;
        page.lastTab = Object.values(tabs).find(isOpen) ?? page.lastTab;
    }

    // What is rarely used is not loaded with the page, but when it is first wanted: `opened/NAME.js`, which adds its
    // subject to `ipAdapter` as the other files do. Resolves with that subject.
    const loading = {};
    function loadSubject(name) {
        loading[name] ??= new Promise((resolve, reject) => {
            const own = document.querySelector("script[src*='ip_adapter_page.js']").src;
            const script = document.createElement("script");
            script.src = own.replace(/ip_adapter_page\.js.*$/, `opened/${name}.js?${tabs.txt2img.facts.opened}`);
            script.onload = () => resolve(ipAdapter[name]);
            script.onerror = () => {
                delete loading[name];
                reject(new Error(`IP-Adapter: ${script.src} cannot be loaded`));
            };
            document.head.append(script);
        });
        return loading[name];
    }

    // The WebUI translates texts by itself, but no attributes.
    function translate(root) {
        const attributes = ["title", "placeholder", "aria-label"];
        const controls = ".ip-adapter-control, .ip-adapter-control input";
        const presets = ".ip-adapter-tools button, .ip-adapter-question :is(input, button)";
        const regions = ".ip-adapter-region :is(button, [role]), .ip-adapter-painter :is([title], [aria-label])";
        for (const element of root.querySelectorAll(`${controls}, ${presets}, ${regions}`)) {
            for (const attribute of attributes) {
                const translation = window.localization?.[element.getAttribute(attribute)];
                if (translation) element.setAttribute(attribute, translation);
            }
        }
    }

    onUiLoaded(() => {
        for (const {props} of gradio_config.components) {
            if (props?.elem_id?.includes("_ip_adapter_")) page.initialValues[props.elem_id] = props.value;
        }
    });
    onUiLoaded(() => Object.values(tabs).forEach((tab) => {
        const {state} = tab, unit = shownUnit(state);
        ipAdapter.units.drawRow(tab, state, true);
        ipAdapter.units.fillControls(tab, unit);
        ipAdapter.drawings.noteLook(tab, state);
        ipAdapter.units.showVariantsControls(tab);
        translate(tab.panel);
        ipAdapter.drawings.noteStrength(tab, unit);
    }));

    onUiTabChange(noteLastTab);

    // The settings page calls these by name (options.py).
    const unload = () => tabs.txt2img.press("unload");
    const installFaces = () => tabs.txt2img.press("install_faces");
    return {
        page, tabOf, noteLastTab, byId, pause, waitUntil, newKey, shownUnit, loadSubject, translate, unload, installFaces,
    };
})());

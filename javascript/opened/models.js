// The units' models: the server says with the cards which model each unit has now, and what the list holds (editor.py);
// and the folded rest of files below the list.
(window.ipAdapter ??= {}).models = (() => {
    const NONE = "None", SAME = {__type__: "update"};
    const initialModel = (tab) => ipAdapter.page.initialValues[`${tab.name}_ip_adapter_model`] ?? NONE;

    // What the list of a tab was given last, the model that was taken out of the rest of files and for which unit, and
    // whether that rest is open, and had the focus.
    const lists = new Map();
    const listOf = (tab) => {
        if (!lists.has(tab)) lists.set(tab, {choices: "", taken: null, isOpen: false, hadFocus: false});
        return lists.get(tab);
    };

    // `model` is what the list of models has. Returns an update for it; other units' models are in the state. What has
    // changed since the server was asked stays, and it is asked again.
    function settle(tab, model) {
        const list = listOf(tab), {taken} = list;
        const place = tab.element("details").querySelector(".ip-adapter-settled");
        keepRest(tab, list);
        if (!place) return SAME;
        const {shown, units, choices, drawn} = JSON.parse(place.dataset.settled);
        if (tab.state.shown !== shown) return SAME;
        const current = (unit, number) => (number === shown ? model : unit.model ?? initialModel(tab)) ?? NONE;
        const entries = units.map(([number, before, now, base]) => ({number, before, now, base}));
        const isNew = ({number, before, now, base}) => {
            const unit = tab.state.units[number - 1];
            return unit && current(unit, number) === before && (now !== before || base && unit.fitted?.[base] !== now);
        };
        const fresh = entries.filter(isNew);
        if (fresh.length) {
            tab.changeState((state) => {
                for (const {number, before, now, base} of fresh) {
                    const unit = state.units[number - 1];
                    unit.model = now;
                    if (now !== before) unit.own = now;
                    if (base) unit.fitted = {...unit.fitted, [base]: now};
                }
            });
        }
        list.taken = null;
        const wanted = taken?.number === shown ? taken.model : null;
        const value = wanted ?? fresh.find(({number}) => number === shown)?.now ?? model;
        tab.cards.model = drawn;
        const listed = choices.includes(value) ? choices : [...choices, value];
        const update = {...SAME};
        if (JSON.stringify(listed) !== list.choices) {
            update.choices = tab.facts.labelled ? listed.map((name) => [name, name]) : listed;
        }
        list.choices = JSON.stringify(listed);
        if (value !== model) update.value = value;
        return update;
    }
    // The list has got other choices from the server.
    function forgetChoices(tab) {
        listOf(tab).choices = "";
    }

    // The rest of files. Its lines are drawn anew with the cards.

    const restOf = (tab) => tab.element("details").querySelector(".ip-adapter-rest");
    function keepRest(tab, list) {
        const rest = restOf(tab);
        if (!rest) return;
        rest.open = list.isOpen;
        if (list.hadFocus && document.activeElement === document.body) rest.querySelector("summary").focus();
    }
    // A focus that goes with the lines comes back with the new ones; one that has been taken elsewhere does not.
    function onFocus(event) {
        const rest = event.target.closest?.(".ip-adapter-rest");
        for (const tab of Object.values(ipAdapter.page.tabs)) listOf(tab).hadFocus = rest && ipAdapter.tabOf(rest) === tab;
    }
    function onToggle(event) {
        const rest = event.target.closest?.(".ip-adapter-rest"), tab = rest && ipAdapter.tabOf(rest);
        if (tab) listOf(tab).isOpen = rest.open;
    }
    function onTake(event) {
        const button = event.target.closest?.(".ip-adapter-take"), tab = button && ipAdapter.tabOf(button);
        if (!tab) return;
        listOf(tab).taken = {number: tab.state.shown, model: button.dataset.model};
        ipAdapter.drawings.drawCards(tab);
    }
    document.addEventListener("toggle", onToggle, true);
    document.addEventListener("click", onTake);
    document.addEventListener("focusin", onFocus);
    document.addEventListener("pointerdown", onFocus);
    return {settle, forgetChoices};
})();

// The line below the row of purposes in which a person keeps the present settings as a purpose's default, or goes back
// to the published one.
ipAdapter.purposes = (() => {
    const lineOf = (tab) => tab.element("purposes").querySelector(".ip-adapter-purpose-defaults");
    const rowOf = (tab) => tab.element("purposes").querySelector(".ip-adapter-purposes");

    function toggle(tab, button) {
        if (lineOf(tab)) return close(tab);
        button.setAttribute("aria-expanded", true);
        rowOf(tab).append(drawn(tab));
        lineOf(tab).addEventListener("keydown", (event) => {
            if (event.key !== "Escape") return;
            event.stopPropagation();  // to the WebUI it means that the job is to end
            close(tab);
        });
        lineOf(tab).querySelector("select").focus();
    }
    function close(tab) {
        const menu = rowOf(tab).querySelector(".ip-adapter-purpose-menu");
        lineOf(tab)?.remove();
        menu.setAttribute("aria-expanded", false);
        menu.focus();
    }
    function made(name, properties, ...children) {
        const element = Object.assign(document.createElement(name), properties);
        element.append(...children);
        return element;
    }
    function drawn(tab) {
        const row = rowOf(tab), pressed = row.querySelector("[data-purpose][aria-pressed=true]")?.dataset.purpose;
        const options = [...row.querySelectorAll("[data-purpose]:not([hidden])")].map((button) => {
            const value = button.dataset.purpose;
            return made("option", {value, selected: value === pressed}, button.querySelector("span").textContent);
        });
        const select = made("select", {}, ...options);
        const isOfBlocks = "weight_type" in JSON.parse(row.dataset.defaults)[select.value];
        const what = isOfBlocks
            ? "Its weight, weight type, composition weight, start and end"
            : "Its weight, start and end, and how closely it follows";
        const keep = made("button", {type: "button", title: what}, "Keep");
        const forget = made("button", {type: "button", title: "Back to the default that it came with"}, "Published default");
        const cancel = made("button", {type: "button", title: "Leave everything as it is"}, "Cancel");
        const enable = () => { forget.disabled = !JSON.parse(row.dataset.kept).includes(select.value); };
        select.addEventListener("change", enable);
        keep.addEventListener("click", () => order(tab, "keep purpose", select.value));
        forget.addEventListener("click", () => order(tab, "forget purpose", select.value));
        cancel.addEventListener("click", () => close(tab));
        enable();
        const label = made("label", {}, made("span", {}, "Keep the present settings as the default of"), select);
        return made("div", {className: "ip-adapter-purpose-defaults"}, label, keep, forget, cancel);
    }

    async function order(tab, what, purpose) {
        const now = ipAdapter.purpose.settingsOf(tab);
        const fields = Object.keys(JSON.parse(rowOf(tab).dataset.defaults)[purpose]);
        const settings = Object.fromEntries(fields.map((field) => [field, now[field]]));
        close(tab);
        await ipAdapter.presets.give(tab, {do: what, purpose, settings});
        await ipAdapter.waitUntil(() => tab.presets.order === null, 10_000);
        const answer = tab.element("note").querySelector(".ip-adapter-purposes-now");
        for (const one of answer ? Object.values(ipAdapter.page.tabs) : []) {
            if (!one.panel) continue;
            Object.assign(rowOf(one).dataset, {defaults: answer.dataset.defaults, kept: answer.dataset.kept});
            ipAdapter.purpose.draw(one);
        }
    }
    return {toggle};
})();

// Presets: an order goes into a box (preset_bar.py); the answer, which may be a question, stands in the line of notes.
(window.ipAdapter ??= {}).presets = (() => {
    const isBusy = (tab) => tab.presets.order !== null;
    // `label`: what an undo calls it, of an order that overwrites units, which are remembered as they are when it goes.
    async function give(tab, order, label = "") {
        if (!await ipAdapter.waitUntil(() => !isBusy(tab), 60_000)) return;
        tab.presets.order = order;
        if (label) ipAdapter.undo.remember(tab, label);
        if (order.do === "load") ipAdapter.early.hold(() => !isBusy(tab));
        tab.writeBox("preset_order", JSON.stringify({...order, stamp: ipAdapter.newKey()}));
    }

    // An order has been carried out, or has failed.
    async function answerOrder(tab) {
        await ipAdapter.pause(0);  // the answer is on view
        const {do: action, name} = tab.presets.order ?? {}, isExport = ["export", "export look"].includes(action);
        if (isExport) await saveExport(tab, action === "export" ? "ip-adapter-presets.zip" : `${name}.safetensors`);
        tab.presets.order = null;
        answerNote(tab);
        if (["keep look", "keep look over", "delete look"].includes(action)) ipAdapter.looks?.renew(tab);
        else if (!["load", "cancel", undefined].includes(action) && !isExport) ipAdapter.shelf.renew?.(tab);
        return [isExport ? null : {__type__: "update"}];
    }
    function answerNote(tab) {
        const question = tab.element("note").querySelector(".ip-adapter-question");
        if (question) {
            const field = question.querySelector("input, [type=button]");  // Enter, pressed twice, does not overwrite
            field.focus();
            field.select?.();
        } else if (document.activeElement === document.body) {
            tab.presets.button?.focus({preventScroll: true});
        }
        return [];
    }

    // Buttons and questions

    function onButton(event) {
        const button = event.target.closest?.(".ip-adapter-tools [data-order]");
        if (!button) return;
        const tab = ipAdapter.tabOf(button), order = JSON.parse(button.dataset.order);
        tab.presets.button = button;
        const chosen = tab.element("preset_chosen").querySelector("input").value;
        const label = order?.do === "load" && chosen ? `loaded “${chosen}”` : "";
        if (order) give(tab, order, label);
        else chooseFile(tab);
    }
    function onCancel(event) {
        const button = event.target.closest?.(".ip-adapter-question [type=button]");
        const tab = button && ipAdapter.tabOf(button);
        if (button && !isBusy(tab)) give(tab, {do: "cancel"});  // what is being done cannot be called off
    }
    function onKey(event) {
        const question = event.key === "Escape" && event.target.closest?.(".ip-adapter-question");
        if (!question) return;
        event.stopPropagation();  // to the WebUI it means that the job is to end
        question.querySelector("[type=button]").click();
    }
    function onAnswer(event) {
        const question = event.target.closest(".ip-adapter-question");
        if (!question) return;
        event.preventDefault();
        const tab = ipAdapter.tabOf(question), order = JSON.parse(question.dataset.order);
        if (order.do === "replace") ipAdapter.truth.replace(tab);
        else if (!isBusy(tab)) give(tab, {...order, name: question.querySelector("input")?.value ?? order.name});
    }

    // Files

    async function chooseFile(tab) {
        const field = () => tab.element("preset_file").querySelector("input[type=file]");
        if (!field()) {  // a file is there already, maybe with a question that has not been answered
            await give(tab, {do: "cancel"});
            await ipAdapter.waitUntil(field, 5000);
        }
        field()?.click();
    }
    async function saveExport(tab, download) {
        const link = () => tab.element("preset_file").querySelector("a[href]");
        if (!await ipAdapter.waitUntil(link, 500)) return;
        const copy = document.createElement("a");
        Object.assign(copy, {href: link().href, download});
        document.body.append(copy);
        copy.click();
        copy.remove();
    }

    // The list was opened with the names that it had before: open it again, unless somebody is searching in it, and once
    // for the same names: where something translates them, it never has these.
    const nameOf = (item) =>  // gradio 3 has it in the first, gradio 4 in the second
        item.dataset.value ?? item.getAttribute("aria-label") ?? item.textContent.replace("✓", "").trim();
    function answerNames(tab, [text]) {
        const list = tab.element("preset_chosen"), input = list.querySelector("input"), {presets} = tab;
        const items = [...list.querySelectorAll("ul.options li")], names = items.map(nameOf);
        const isCurrent = JSON.stringify(names) === JSON.stringify(JSON.parse(text || "[]"));
        const isDone = isCurrent || input !== document.activeElement;
        if (isDone) presets.reopened = null;
        if (isDone || presets.reopened === text) return [];
        if (items.length && input.value && !names.includes(input.value)) return [];
        presets.reopened = text;
        input.blur();
        setTimeout(() => input.focus(), 50);
        return [];
    }

    document.addEventListener("click", onButton);
    document.addEventListener("click", onCancel);
    document.addEventListener("keydown", onKey, true);
    document.addEventListener("submit", onAnswer);
    return {give, answerOrder, answerNote, answerNames};
})();

// The card with files that can be had (download_card.py): what is ticked, the press that gets it, and how far it is. It
// is loaded when such a card is first on view. The server is asked through one hidden button, which all cards share.
(window.ipAdapter ??= {}).downloads = (() => {
    const EVERY = 1000;  // milliseconds between two looks at a download
    const DUMB = "The WebUI does not answer: see its console, then press again.";
    const kept = {ticks: {}, isOpen: {}};  // what a person has ticked and opened: cards are drawn anew at any time
    const waiting = [];  // orders on their way; the first is being carried out
    // What the server has told last, the timer of the next look, how many looks went unheard, how many files have come
    // since the lists of models were looked through, and whether a press has not been answered yet.
    let state = null, timer = null, failures = 0, come = 0, isPressed = false;

    const cards = () => [...document.querySelectorAll(".ip-adapter-download")];

    // Orders

    function ask(order) {
        return new Promise((resolve) => {
            waiting.push({order: {...order, stamp: ipAdapter.newKey()}, resolve});
            if (waiting.length === 1) press();
        });
    }
    function press() {
        const asked = waiting[0];
        ipAdapter.page.tabs.txt2img.press("downloads");
        // A server that has gone answers nothing.
        setTimeout(() => { if (waiting[0] === asked) settle(null); }, 20_000);
    }
    const order = () => JSON.stringify(waiting[0]?.order ?? {do: "look", stamp: ""});
    function settle(answer) {
        waiting.shift().resolve(answer);
        if (waiting.length) press();
    }
    function answer(text) {
        let told = null;
        try { told = JSON.parse(text); } catch { /* the server was busy, or has gone */ }
        if (waiting.length) settle(told?.stamp === waiting[0].order.stamp ? told : null);
        return [];
    }

    // What is on view

    function sized(bytes) {
        if (!bytes) return "0 MB";
        if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(1)} GB`;
        return `${Math.max(bytes / 1e6, 0.1).toFixed(bytes >= 1e7 ? 0 : 1)} MB`;
    }
    function timed(seconds) {
        if (seconds < 90) return `${seconds} s left`;
        return seconds < 5400 ? `${Math.round(seconds / 60)} min left` : `${(seconds / 3600).toFixed(1)} h left`;
    }
    // Pieces, each of which is looked up in the page's language by itself.
    function progressParts({files, done, size, speed, left}) {
        const checking = files.find((file) => file.state === "checking");
        if (checking) {
            const share = checking.size ? ` ${Math.floor(100 * checking.checked / checking.size)} %` : "";
            return [`Checking ${checking.file}${share}`];
        }
        const parts = [size ? `${sized(done)} / ${sized(size)}` : sized(done)];
        if (speed) parts.push(`${sized(speed)}/s`);
        if (left !== null) parts.push(timed(left));
        return parts.flatMap((one, i) => i ? [" · ", one] : [one]);
    }

    function draw(card, fault = "") {
        const told = state ?? JSON.parse(card.dataset.state), failed = told.files.filter((file) => file.problem);
        const find = (selector) => card.querySelector(selector);
        const button = (name) => find(`[data-do=${name}]`);
        if (!button("start")) return;  // only links
        const hadFocus = card.contains(document.activeElement);
        const isAgain = !told.running && failed.length > 0, hasFiles = Boolean(find("input[data-file]"));
        find(".ip-adapter-download-progress").hidden = !told.running;
        button("start").hidden = told.running || isAgain || !hasFiles;
        button("again").hidden = !isAgain;
        button("cancel").hidden = !told.running && !isAgain;
        for (const box of card.querySelectorAll("input[data-file]")) box.disabled = told.running;
        const problem = find(".ip-adapter-problem"), sentences = failed.map((file) => file.problem);
        if (told.problem || fault) sentences.push(told.problem || fault);
        problem.hidden = !sentences.length;
        if (problem.textContent !== sentences.join("\n")) problem.textContent = sentences.join("\n");
        if (told.running) {
            const bar = find("progress");
            if (told.size) Object.assign(bar, {max: told.size, value: told.done});
            else bar.removeAttribute("value");
            find(".ip-adapter-download-progress span").replaceChildren(...progressParts(told));
        }
        drawTotal(card);
        if (hadFocus && (document.activeElement === document.body || document.activeElement.hidden)) {
            [...card.querySelectorAll("button")].find((one) => !one.hidden)?.focus({preventScroll: true});
        }
    }
    function drawTotal(card) {
        const boxes = [...card.querySelectorAll("input[data-file]:checked")];
        const total = boxes.reduce((sum, box) => sum + Number(box.dataset.size), 0);
        const start = card.querySelector("[data-do=start]");
        start.disabled = !boxes.length;
        card.querySelector(".ip-adapter-download-buttons small").textContent = start.hidden || !total ? "" : sized(total);
    }

    // A tab's card has been drawn by the server, with what it knew then.
    function drawn(tab) {
        const card = tab.element("details").querySelector(".ip-adapter-download");
        if (!card) return;
        const told = JSON.parse(card.dataset.state);
        if (!state?.running || told.running) state = told;
        for (const box of card.querySelectorAll("input[data-file]")) {
            box.checked = kept.ticks[box.dataset.file] ?? box.checked;
        }
        const details = card.querySelector("details");
        if (details && kept.isOpen[tab.name]) details.open = true;
        draw(card);
        if (state.running) look();
    }

    // How far it is

    function look() {
        timer ??= setTimeout(async () => {
            const told = await ask({do: "look"});
            timer = null;
            take(told);
        }, EVERY * 2 ** failures);
    }
    function take(told) {
        if (told === null) {  // the server is busy, or is restarted
            if (++failures <= 5) look();
            else cards().forEach((card) => draw(card, DUMB));
            return;
        }
        failures = 0;
        come += Math.max(0, arrivals(told) - arrivals(state));
        state = told;
        cards().forEach((card) => draw(card));
        if (told.running) look();
        else if (come) refresh();
    }
    const arrivals = (told) => told?.files.filter((file) => file.state === "done").length ?? 0;

    // Everything has come: the lists of models are looked through again, and what fits is chosen.
    function refresh() {
        come = 0;
        kept.ticks = {};
        const focused = cards().find((card) => card.contains(document.activeElement));
        if (focused) ipAdapter.tabOf(focused).element("refresh").focus({preventScroll: true});  // the card goes
        for (const tab of Object.values(ipAdapter.page.tabs)) tab.press("refresh");
    }

    async function onButton(event) {
        const button = event.target.closest?.(".ip-adapter-download button[data-do]");
        if (!button || isPressed) return;
        const card = button.closest(".ip-adapter-download"), action = button.dataset.do;
        const chosen = [...card.querySelectorAll("input[data-file]:checked")].map((box) => box.dataset.file);
        const failed = (state?.files ?? []).filter((file) => file.problem).map(({file}) => file);
        isPressed = true;
        const wanted = action === "cancel" ? {do: "cancel"} : {do: "start", files: action === "again" ? failed : chosen};
        const told = await ask(wanted), before = state ?? JSON.parse(card.dataset.state);
        isPressed = false;
        take(told ?? {...before, problem: DUMB});
    }
    function onTick(event) {
        const box = event.target.closest?.(".ip-adapter-download input[data-file]");
        if (!box) return;
        const card = box.closest(".ip-adapter-download");
        kept.ticks[box.dataset.file] = box.checked;
        if (box.checked) {
            for (const name of JSON.parse(box.dataset.needs)) {
                const needed = card.querySelector(`input[data-file="${CSS.escape(name)}"]`);
                if (needed) needed.checked = kept.ticks[name] = true;
            }
        }
        drawTotal(card);
    }
    function onToggle(event) {
        const card = event.target.closest?.(".ip-adapter-download");
        if (card) kept.isOpen[ipAdapter.tabOf(card).name] = event.target.open;
    }

    document.addEventListener("click", onButton);
    document.addEventListener("change", onTick);
    document.addEventListener("toggle", onToggle, true);
    Object.values(ipAdapter.page.tabs).forEach((tab) => tab.panel && drawn(tab));
    return {order, answer, drawn};
})();

// The shelf, and what is kept of the panel beyond a reload of the page: only what has to be there from the start. The
// rest is loaded when it is first wanted (opened/shelf.js, opened/keep.js).
(window.ipAdapter ??= {}).shelf = (() => {
    // Questions to the server (shelf.py), one at a time: the answer comes back in the box of the question.
    function ask(tab, question) {
        tab.shelf.answered = tab.shelf.answered.then(() => new Promise((resolve) => {
            const stamp = ipAdapter.newKey();
            const timer = setTimeout(() => resolve({}), 30_000);
            tab.shelf.onAnswer = (answer) => {
                if (answer.stamp !== stamp) return;  // it comes too late: nobody waits for it any longer
                clearTimeout(timer);
                resolve(answer.ask ? {} : answer);  // the question itself, where it has failed
            };
            tab.writeBox("shelf", JSON.stringify({...question, stamp}));
        }));
        return tab.shelf.answered;
    }
    // In the place of a file: a picture that presets have, "sha256:" and its content hash, or a look, "look:" and its
    // name (panel_state.py). `shown`: what notes call it.
    function stored(name, shown = "picture") {
        return Object.assign(new File([], shown), {stored: name});
    }
    function answerAsked(tab, [text]) {
        tab.shelf.onAnswer?.(JSON.parse(text || "{}"));
        return [];
    }
    async function onOpen(event) {
        const button = event.target.closest?.(".ip-adapter-tools [aria-expanded]");
        if (button) (await ipAdapter.loadSubject("shelf")).toggle(ipAdapter.tabOf(button), button);
        const opener = event.target.closest?.(".ip-adapter-looks-opener");
        if (opener) (await ipAdapter.loadSubject("looks")).toggle(ipAdapter.tabOf(opener), opener);
        const folder = event.target.closest?.(".ip-adapter-folder-opener");
        if (folder) (await ipAdapter.loadSubject("folder")).toggle(ipAdapter.tabOf(folder));
    }
    // The strip of a folder is there as long as the shown unit has one, and where somebody has opened it.
    async function followFolder(tab, unit) {
        if (unit.folder?.trim() || ipAdapter.folder) (await ipAdapter.loadSubject("folder")).follow(tab);
    }

    // Keeping. A panel that has changed is kept once it rests, but not before it is known whether something is to be
    // restored into it. Who has never had a picture in it has nothing that could be kept.

    const REST = 800;  // milliseconds
    // Several WebUIs may be behind one address, by their paths. The flag that they shared in earlier versions counts
    // until there is one of its own.
    const FLAG = `ip-adapter-panel ${location.pathname}`, OLD_FLAG = "ip-adapter-panel";
    const isKept = () => {
        try {
            return Boolean(localStorage.getItem(FLAG) ?? localStorage.getItem(OLD_FLAG));
        } catch {
            return false;  // the browser keeps nothing for us
        }
    };
    function noteKept(isThere) {
        if (isThere || localStorage.getItem(OLD_FLAG)) localStorage.setItem(FLAG, isThere ? "kept" : "");
        else localStorage.removeItem(FLAG);
    }
    const hasPictures = ({units}) => units.some((unit) => ipAdapter.purpose.hasReferences(unit) || unit.region);
    let isDecided = false;
    function noteChange(tab) {
        clearTimeout(tab.keep.timer);
        tab.keep.timer = setTimeout(() => keep(tab), REST);
    }
    async function keep(tab) {
        tab.keep.timer = null;
        if (!isDecided) return noteChange(tab);
        if (!isKept() && !hasPictures(tab.state)) return;
        await (await ipAdapter.loadSubject("keep")).save(tab);
    }
    // All that is done in the panel writes into a field sooner or later; pictures go through the inbox.
    function onInput(event) {
        const tab = event.target.closest?.(".ip-adapter-restored") ? null : ipAdapter.tabOf(event.target);
        if (!tab?.panel) return;
        if (event.target === tab.hiddenBox("inbox")) {
            const text = event.target.value, [, key] = /^{"key":"([^"]*)"/.exec(text.slice(0, 100)) ?? [];
            if (key) tab.keep.arrived.set(key, text);
        }
        if (event.target !== tab.hiddenBox("shelf")) noteChange(tab);
    }
    function onLeave() {
        if (document.visibilityState !== "hidden") return;
        Object.values(ipAdapter.page.tabs).filter((tab) => tab.keep.timer).forEach((tab) => {
            clearTimeout(tab.keep.timer);
            keep(tab);
        });
    }
    async function restore() {
        try {
            if (isKept()) await (await ipAdapter.loadSubject("keep")).restore();
        } finally {
            isDecided = true;
        }
    }

    document.addEventListener("click", onOpen);
    document.addEventListener("input", onInput);
    document.addEventListener("change", onInput);
    document.addEventListener("visibilitychange", onLeave);
    // What was in the panel comes back when the page has nothing else to do. Resolves when it has.
    async function begin() {
        if (isKept() && window.requestIdleCallback) {
            await new Promise((resolve) => requestIdleCallback(resolve, {timeout: 3000}));
        }
        await restore();
    }
    return {begin, ask, stored, noteChange, noteKept, followFolder, hasPictures, answerAsked};
})();

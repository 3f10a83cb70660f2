// The page's part of the host. Extensions' scripts call the functions up to the first line of dashes by name.
const hostEvents = {};
for (const name of ["UiUpdate", "AfterUiUpdate", "UiLoaded", "UiTabChange", "OptionsChanged"]) {
    hostEvents[name] = [];
    window[`on${name}`] = (callback) => hostEvents[name].push(callback);
}
const gradioApp = () => document;
const selectedTab = () => document.querySelector("#tabs > .tab-nav > .selected");
const get_uiCurrentTab = selectedTab;
const get_uiCurrentTabContent = () => [...document.querySelectorAll("#tabs > .tabitem")]
    .find((tab) => tab.style.display !== "none");
var opts = {};
const updateInput = (target) => target.dispatchEvent(new Event("input", {bubbles: true}));

// ---------------------------------------------------------------------------------------------------------------------

function announce(name, ...facts) {
    hostEvents[name].forEach((callback) => {
        try { callback(...facts); } catch (error) { console.error(`on${name}`, error); }
    });
}

// Python names these functions in _js.
const openTab = (title) => [...document.querySelectorAll("#tabs > .tab-nav > button")]
    .find((button) => button.textContent.trim() === title)?.click();
const switch_to_txt2img = (...values) => { openTab("txt2img"); return values; };
const switch_to_img2img = (...values) => { openTab("img2img"); return values; };
const switch_to_extras = (...values) => { openTab("Extras"); return values; };
function checkpointChanged(title) {
    opts = {...opts, sd_model_checkpoint: title};
    announce("OptionsChanged");
    return [];
}
function chosenPicture(gallery) {
    const thumbnails = [...get_uiCurrentTabContent().querySelectorAll("[id$=_gallery] .thumbnail-item")];
    const chosen = thumbnails.findIndex((thumbnail) => thumbnail.matches(".selected"));
    return [gallery[chosen] ?? gallery[0]];
}

// An accordion that is an input: a hidden checkbox has its value, and one in its head shows it. Whether it is open
// follows the tick and the other way round, until somebody has clicked the tick; from then on they are apart.
const isOpen = (head) => head.classList.contains("open");
function setInputAccordion(id, isTicked) {
    const accordion = document.getElementById(id);
    accordion.tick.checked = isTicked;
    accordion.followTick();
}
function connectAccordion(accordion) {
    const head = accordion.querySelector(".label-wrap");
    const value = document.querySelector(`#${accordion.id}-checkbox input`);
    const tick = Object.assign(document.createElement("input"), {
        type: "checkbox", checked: isOpen(head), id: `${accordion.id}-visible-checkbox`,
        className: `${value.className} input-accordion-checkbox`,
    });
    let isLinked = true;
    accordion.tick = tick;
    accordion.followTick = () => {
        if (isLinked && isOpen(head) !== tick.checked) head.click();
        value.checked = tick.checked;
        updateInput(value);
    };
    head.querySelector("span").prepend(tick);
    new MutationObserver(() => {
        accordion.classList.toggle("input-accordion-open", isOpen(head));
        if (!isLinked) return;
        tick.checked = isOpen(head);
        accordion.followTick();
    }).observe(head, {attributeFilter: ["class"]});
    tick.addEventListener("click", (event) => {
        isLinked = false;
        event.stopPropagation();
    });
    tick.addEventListener("input", accordion.followTick);
}
onUiLoaded(() => document.querySelectorAll(".input-accordion").forEach(connectAccordion));
onAfterUiUpdate(() => {
    for (const {props} of window.gradio_config?.components ?? []) {
        const element = props?.webui_tooltip && document.getElementById(props.elem_id);
        if (element) element.title = props.webui_tooltip;
    }
});

onUiLoaded(() => {
    opts = {...opts, sd_model_checkpoint: document.querySelector("#setting_sd_model_checkpoint_quick input")?.value};
    announce("OptionsChanged");
});

// Generate: names the task, and follows it.
async function follow(tab, id_task) {
    const line = document.querySelector(`#${tab}_progress .progress-text`);
    const request = {
        method: "POST", headers: {"Content-Type": "application/json"},
        body: JSON.stringify({id_task, live_preview: false}),
    };
    for (let misses = 0; misses < 20;) {
        await new Promise((resolve) => setTimeout(resolve, 300));
        const answer = await fetch("./internal/progress", request).then((r) => r.json()).catch(() => null);
        if (answer === null) { misses += 1; continue; }
        if (answer.completed) break;
        const share = answer.active ? `${Math.round(100 * answer.progress)}%` : "";
        line.textContent = `${answer.textinfo ?? ""} ${share}`.trim();
    }
    line.textContent = "";
}
function submit(tab, [, ...values]) {
    const task = `task(${crypto.getRandomValues(new Uint32Array(2)).join("-")})`;
    follow(tab, task);
    return [task, ...values];
}
const submit_txt2img = (...values) => submit("txt2img", values);
const submit_img2img = (...values) => submit("img2img", values);

document.addEventListener("DOMContentLoaded", () => {
    let tab, pause;
    new MutationObserver((changes) => {
        announce("UiUpdate", changes);
        if (tab === undefined && document.querySelector("#txt2img_prompt")) {
            tab = null;
            announce("UiLoaded");
        }
        if (tab !== undefined && tab !== selectedTab()) {
            tab = selectedTab();
            announce("UiTabChange");
        }
        clearTimeout(pause);
        pause = setTimeout(announce, 200, "AfterUiUpdate");
    }).observe(document, {childList: true, subtree: true});
});

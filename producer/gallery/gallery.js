"use strict";
// Everything that comes from the data is shown by textContent: nothing of it can become markup.
const data = JSON.parse(document.getElementById("data").textContent);
const words = data.words;
const key = "cxr-backlog verdicts " + data.run;
const at = (id) => document.getElementById(id);
const name = (finding) => data.findings[finding];
const decimal = (value, digits) => {
  const text = value.toFixed(digits);
  return data.language === "en" ? text : text.replace(".", ",");
};
const filled = (text, values) => text.replace(/\{(\w+)\}/g, (_, one) => values[one]);

let place = 0;
let finding = data.finding;
let pinned = false;
let hovered = false;
let kept = true;
let unsaved = 0;
let verdicts = {};

function load() {
  try {
    const found = JSON.parse(localStorage.getItem(key) || "{}");
    for (const image of data.images) {
      for (const label of data.labels) {
        const verdict = found[image.sop]?.[label];
        if (["agree", "disagree", "unsure"].includes(verdict)) (verdicts[image.sop] ??= {})[label] = verdict;
      }
    }
  } catch {
    kept = false;
  }
}

function keep() {
  try {
    // What another page of this run has kept since stays: only this page's images are replaced.
    const found = JSON.parse(localStorage.getItem(key) || "{}");
    for (const image of data.images) {
      if (verdicts[image.sop]) found[image.sop] = verdicts[image.sop];
      else delete found[image.sop];
    }
    localStorage.setItem(key, JSON.stringify(found));
    kept = true;
  } catch {
    kept = false;
  }
}

const present = (image, one) => image.scores[one] >= data.points[one];
const order = (image) =>
  data.labels.map((_, one) => one).sort((a, b) => (image.scores[b] ?? -1) - (image.scores[a] ?? -1) || a - b);

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function show(step) {
  place = Math.min(Math.max(step, 0), data.images.length - 1);
  const image = data.images[place];
  finding ??= order(image)[0];
  at("position").textContent = place + 1 + " / " + data.images.length;
  at("previous").disabled = place === 0;
  at("next").disabled = place === data.images.length - 1;
  const picture = at("picture");
  picture.src = "data:image/jpeg;base64," + at("jpeg-" + place).textContent;
  picture.width = image.width;
  picture.height = image.height;
  picture.alt = filled(words.alt, { number: place + 1, count: data.images.length });
  at("frame").style.width = "min(100%, calc(82vh * " + image.width / image.height + "))";
  const side = Math.min(image.width, image.height);
  const square = at("square").style;
  square.left = (50 * (image.width - side)) / image.width + "%";
  square.top = (50 * (image.height - side)) / image.height + "%";
  square.width = (100 * side) / image.width + "%";
  square.height = (100 * side) / image.height + "%";
  const facts = [[words.item, image.item]];
  if (image.names) {
    facts.push([words.file, image.names.file_name], [words.accession, image.names.accession_number]);
    facts.push([words.patient, image.names.patient_id]);
  }
  facts.push(["SOP Instance UID", image.sop], [words.flags, image.flags.join(", ")]);
  at("facts").replaceChildren(
    ...facts.flatMap(([title, value]) => [element("dt", "", title), element("dd", "", String(value || "–"))]),
  );
  const link = at("link");
  link.hidden = !image.link;
  if (image.link) link.href = image.link;
  choose(finding);
}

function choose(one) {
  finding = one;
  const image = data.images[place];
  const given = verdicts[image.sop] || {};
  const marks = { agree: "✓", disagree: "✗", unsure: "?" };
  at("findings").replaceChildren(
    ...order(image).map((label) => {
      const score = image.scores[label];
      const state = score === null ? "absent" : present(image, label) ? "present" : "absent";
      const button = element("button", state);
      button.type = "button";
      button.dataset.finding = label;
      button.setAttribute("aria-pressed", String(label === one));
      const verdict = given[data.labels[label]];
      const mark = verdict ? " " + marks[verdict] + " " + words[verdict] : "";
      button.append(element("span", "name", name(label) + mark));
      const value = score === null ? words.not_evaluated : decimal(score, 3) + " " + words[state];
      button.append(element("span", "value", value));
      if (score !== null) {
        const track = element("span", "track");
        const fill = element("span", "fill");
        fill.style.width = 100 * score + "%";
        const point = element("span", "point");
        point.style.left = 100 * data.points[label] + "%";
        track.append(fill, point);
        button.append(track);
      }
      button.addEventListener("click", () => choose(label));
      const row = element("li", "");
      row.append(button);
      return row;
    }),
  );
  const score = image.scores[one];
  const said = score === null ? words.not_evaluated : words[present(image, one) ? "present" : "absent"];
  at("question").textContent = filled(words.question, { finding: name(one), state: said });
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.disabled = score === null;
    button.setAttribute("aria-pressed", String(given[data.labels[one]] === button.dataset.verdict));
  }
  heat();
  overview();
  count();
}

function heat() {
  const image = data.images[place];
  const on = pinned || hovered;
  at("toggle").setAttribute("aria-pressed", String(pinned));
  at("toggle").disabled = !image.heat;
  at("square").hidden = !on || !image.heat;
  const contrast = words["contrast_" + image.contrast];
  if (!image.heat) {
    at("under").textContent = contrast + (image.other_scores ? " " + words.other_scores : "");
    return;
  }
  const cells = image.cells;
  const bytes = Uint8Array.from(atob(image.heat), (one) => one.charCodeAt(0));
  const levels = bytes.subarray(finding * cells * cells, (finding + 1) * cells * cells);
  if (image.scores[finding] === null) {
    // What such an output of the network draws means no more than its number, which is not shown either.
    levels.fill(0);
    at("under").textContent = contrast + " " + name(finding) + ": " + words.not_evaluated + ".";
  } else {
    const none = levels.every((one) => one === 0);
    at("under").textContent =
      contrast + " " + filled(none ? words.heat_none : words.heat_of, { finding: name(finding) });
  }
  const canvas = at("heat");
  canvas.width = canvas.height = cells;
  const pen = canvas.getContext("2d");
  const pixels = pen.createImageData(cells, cells);
  levels.forEach((level, cell) => {
    pixels.data.set([255, 230 * (1 - level / 255), 0, 0.55 * level], 4 * cell);
  });
  pen.putImageData(pixels, 0, 0);
}

function judge(verdict) {
  const image = data.images[place];
  if (image.scores[finding] === null) return;
  const given = (verdicts[image.sop] ??= {});
  const label = data.labels[finding];
  if (given[label] === verdict) delete given[label];
  else given[label] = verdict;
  if (!Object.keys(given).length) delete verdicts[image.sop];
  unsaved += 1;
  keep();
  choose(finding);
}

function rows() {
  const found = [];
  for (const image of data.images) {
    data.labels.forEach((label, one) => {
      const verdict = verdicts[image.sop]?.[label];
      if (verdict && image.scores[one] !== null) {
        found.push([image.sop, label, present(image, one) ? "1" : "0", verdict]);
      }
    });
  }
  return found;
}

function csv() {
  const cell = (text) => (/[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text);
  const lines = [["sop_instance_uid", "finding", "present", "verdict"], ...rows()];
  return lines.map((line) => line.map(cell).join(",") + "\r\n").join("");
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = "verdicts-" + data.run + ".csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  unsaved = 0;
  count();
}

function count() {
  const text = filled(words.count, { count: rows().length });
  at("count").textContent = text + (unsaved ? " " + words.unsaved : "") + (kept ? "" : " " + words.not_kept);
  at("save").disabled = !rows().length;
}

function overview() {
  const buttons = at("all").children;
  data.images.forEach((image, number) => {
    const button = buttons[number];
    const score = image.scores[finding];
    const verdict = verdicts[image.sop]?.[data.labels[finding]];
    button.textContent =
      number + 1 + ": " + (score === null ? "–" : decimal(score, 2)) + (verdict ? " " + words[verdict] : "");
    button.setAttribute("aria-current", String(number === place));
  });
}

function move(by) {
  const labels = order(data.images[place]);
  const next = labels.indexOf(finding) + by;
  if (next < 0 || next >= labels.length) return;
  choose(labels[next]);
  document.querySelector('#findings [aria-pressed="true"]').scrollIntoView({ block: "nearest" });
}

const keys = {
  ArrowRight: () => show(place + 1),
  ArrowLeft: () => show(place - 1),
  ArrowDown: () => move(1),
  ArrowUp: () => move(-1),
  [words.key_agree]: () => judge("agree"),
  [words.key_disagree]: () => judge("disagree"),
  [words.key_unsure]: () => judge("unsure"),
  [words.key_heat]: () => pin(),
  [words.key_save]: () => rows().length && save(),
};

function pin() {
  pinned = !pinned;
  heat();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act || !data.images.length) return;
  event.preventDefault();
  act();
});
at("previous").addEventListener("click", () => show(place - 1));
at("next").addEventListener("click", () => show(place + 1));
at("toggle").addEventListener("click", pin);
at("save").addEventListener("click", save);
at("frame").addEventListener("pointerenter", (event) => {
  hovered = event.pointerType === "mouse";
  heat();
});
at("frame").addEventListener("pointerleave", () => {
  hovered = false;
  heat();
});
at("frame").addEventListener("pointerup", (event) => event.pointerType !== "mouse" && pin());
for (const button of document.querySelectorAll("[data-verdict]")) {
  button.addEventListener("click", () => judge(button.dataset.verdict));
}
if (data.images.length) {
  load();
  data.images.forEach((_, number) => {
    const button = element("button", "");
    button.type = "button";
    button.addEventListener("click", () => show(number));
    at("all").append(button);
  });
  at("viewer").hidden = false;
  show(0);
}

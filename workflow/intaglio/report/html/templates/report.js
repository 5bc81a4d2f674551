const SPECIFICATIONS = JSON.parse(document.getElementById("specifications").textContent);
const PAGES = new Map([...document.querySelectorAll("template[data-page]")].map((page) => [page.dataset.page, page]));
const JUMP = document.getElementById("jump");
const OVERVIEW = document.getElementById("overview"), OTHER = document.getElementById("page");
const LOOK = {
  font: 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif', view: { stroke: null },
  axis: { gridColor: "#e4e7eb", domainColor: "#c9d1d9", tickColor: "#c9d1d9", labelColor: "#1f2328",
          titleColor: "#57606a", titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 12 },
};

// Draw a figure with these rows, and with these values in place of names such as $x; a click on a mark opens its page.
async function draw(place, name, rows, values = {}) {
  const text = JSON.stringify(SPECIFICATIONS[name]);
  const specification = JSON.parse(text, (_, value) => (typeof value === "string" && value in values ? values[value] : value));
  specification.datasets = { rows };
  const options = { renderer: "svg", config: LOOK, actions: { export: true, source: false, compiled: false, editor: false } };
  const { view } = await vegaEmbed(place, specification, options);
  view.addEventListener("click", (_, mark) => mark && mark.datum && mark.datum.page && go(mark.datum.page));
  return view;
}

// Rows are stored by column.
function rowsOf(text) {
  const columns = Object.entries(JSON.parse(text)), count = columns.length ? columns[0][1].length : 0;
  return Array.from({ length: count }, (_, row) => Object.fromEntries(columns.map(([name, values]) => [name, values[row]])));
}

// The figure of all variants, drawn again after every choice.
function tradeoff(box) {
  const points = rowsOf(box.dataset.points), form = box.querySelector("form"), place = box.querySelector(".figure");
  const legend = box.querySelector(".legend");
  async function show() {
    const { axis, panel, device, backend } = Object.fromEntries(new FormData(form));
    const rows = points
      .filter((row) => row.panel === panel && (row.device === device || !row.device))
      .filter((row) => (backend ? row.backend === backend : row.fastest) && row[axis] !== null)
      .map((row) => ({ ...row, ...UNNAMED, x: row[axis], interval: row.low === row.high ? "–" : `${row.low} to ${row.high}` }));
    legend.replaceChildren();
    if (!rows.length) return (place.textContent = "Nothing was measured here.");
    const beats = (one, two) =>
      one.x <= two.x && one.better * one.value >= two.better * two.value && (one.x < two.x || one.value !== two.value);
    for (const row of rows) row.front = !rows.some((other) => beats(other, row));
    const x = around(rows.map((row) => row.x), 0.04), y = around(rows.flatMap((row) => [row.low, row.value, row.high]), 0.03);
    const title = form.elements.axis.selectedOptions[0].textContent;
    const ends = { $x_least: x[0], $x_most: x[1], $y_least: y[0], $y_most: y[1] };
    const view = await draw(place, "tradeoff", rows, { $x: title, $y: rows[0].metric, ...ends });
    const name = () => {
      placeNames(rows, x, y, view.signal("width"), view.signal("height"));
      // Copies, since Vega marks the rows that it holds.
      view.data("rows", rows.map((row) => Object.fromEntries(Object.entries(row)))).runAsync();
      legend.replaceChildren(...(rows.every((row) => row.label) ? [] : rows.map(entryOf)));
    };
    name();
    view.addSignalListener("width", name);
  }
  form.addEventListener("change", show);
  show();
}

// The ends of an axis on which values have this share of their range as room on either side.
function around(values, share) {
  const least = Math.min(...values), most = Math.max(...values), room = share * (most - least || Math.abs(most) || 1);
  return [least - room, most + room];
}

// Write each name beside its point where it covers no point, no other name and not float's line; where there is no such
// place, it is left to the legend. The recommended variant, float and those that no other beats are served first.
const UNNAMED = { label: "", align: "left", dx: 0, dy: 0 };
const BESIDE = [[11, 0], [-11, 0], ...[12, 24, 36].flatMap((dy) => [[9, -dy], [9, dy], [-9, -dy], [-9, dy], [0, -dy - 5], [0, dy + 5]])];
const NAME = { size: 11.5, height: 13 };
function placeNames(rows, x, y, width, height) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `${NAME.size}px ${LOOK.font}`;
  const toX = (row) => width * (row.x - x[0]) / (x[1] - x[0]), toY = (row) => height * (y[1] - row.value) / (y[1] - y[0]);
  const box = (left, top, wide, high) => ({ left, top, right: left + wide, bottom: top + high });
  const meet = (one, two) => one.left < two.right && two.left < one.right && one.top < two.bottom && two.top < one.bottom;
  const taken = rows.map((row) => box(toX(row) - 7, toY(row) - 7, 14, 14));
  taken.push(...rows.filter((row) => row.variant === "float").map((row) => box(0, toY(row) - 1, width, 2)));
  const first = (row) => 4 * row.recommended + 2 * (row.variant === "float") + row.front;
  for (const row of [...rows].sort((one, two) => first(two) - first(one))) {
    const text = row.variant + (row.recommended ? " ★" : ""), wide = pen.measureText(text).width;
    const at = BESIDE.map(([dx, dy]) => {
      const left = toX(row) + dx - (dx > 0 ? 0 : dx < 0 ? wide : wide / 2);
      return { dx, dy, ...box(left, toY(row) + dy - NAME.height / 2, wide, NAME.height) };
    }).find((at) => at.left >= 0 && at.right <= width && at.top >= 0 && at.bottom <= height && !taken.some((other) => meet(at, other)));
    Object.assign(row, UNNAMED);
    if (!at) continue;
    Object.assign(row, { label: text, align: at.dx > 0 ? "left" : at.dx < 0 ? "right" : "center", dx: at.dx, dy: at.dy });
    taken.push(at);
  }
}

// A variant in the legend, in the color of its point.
function entryOf(row) {
  const { domain, range } = SPECIFICATIONS.tradeoff.layer.find((layer) => layer.encoding.color?.scale).encoding.color.scale;
  const entry = element("a", { href: "#" + encodeURIComponent(row.page), textContent: row.variant + (row.recommended ? " ★" : "") });
  const dot = element("i");
  dot.style.background = range[domain.indexOf(row.variant)];
  entry.prepend(dot);
  return entry;
}

// Sorting by a click on a heading; search, choice of columns and CSV where a table has tools.
function table(box) {
  const heads = [...box.querySelectorAll("th")], body = box.querySelector("tbody"), rows = [...body.rows];
  const key = (row, column) => {
    const text = row.cells[column].textContent.trim();
    if (text === "–") return null;
    const number = parseFloat(text.replace("−", "-").replace("< ", ""));
    return heads[column].classList.contains("number") && !Number.isNaN(number) ? number : text.toLowerCase();
  };
  const compare = (one, two) => (one < two ? -1 : one > two ? 1 : 0);
  heads.forEach((head, column) => {
    head.tabIndex = 0;
    const sort = () => {
      const way = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", way);
      const keyed = rows.map((row) => [key(row, column), row]);
      // What is not known comes last either way.
      keyed.sort(([one], [two]) => (one === null) - (two === null) || (way === "ascending" ? 1 : -1) * compare(one, two));
      body.append(...keyed.map(([, row]) => row));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  });
  const first = Number(box.dataset.first || heads.length);
  const show = (column, shown) => [heads[column], ...rows.map((row) => row.cells[column])].forEach((cell) => (cell.hidden = !shown));
  heads.forEach((_, column) => column >= first && show(column, false));
  if ("tools" in box.dataset) box.prepend(tools(box, heads, rows, first, show));
}

function tools(box, heads, rows, first, show) {
  const bar = element("div", { className: "tools" }), count = element("span", { className: "count" });
  const search = element("input", { type: "search", placeholder: "search" });
  search.setAttribute("aria-label", "search");
  const tell = () => (count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`);
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/);
    rows.forEach((row) => (row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word))));
    tell();
  });
  const list = element("div", { className: "list" });
  heads.forEach((head, column) => {
    const box = element("input", { type: "checkbox", checked: column < first });
    box.addEventListener("change", () => show(column, box.checked));
    const label = element("label");
    label.append(box, ` ${head.textContent}`);
    if (column) list.append(label);
  });
  const columns = element("details");
  columns.append(element("summary", { textContent: "columns" }), list);
  const save = element("button", { type: "button", textContent: "CSV" });
  save.addEventListener("click", () => {
    const quote = (cell) => `"${cell.textContent.replaceAll("−", "-").replaceAll('"', '""')}"`;
    const lines = [heads, ...rows.filter((row) => !row.hidden).map((row) => [...row.cells])];
    const text = "\ufeff" + lines.map((cells) => cells.map(quote).join(",")).join("\r\n") + "\r\n";
    const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })) });
    link.download = `${box.dataset.name}.csv`;
    link.click();
  });
  bar.append(search, columns, save, count);
  tell();
  return bar;
}

function element(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

function prepare(root) {
  root.querySelectorAll(".table").forEach(table);
  root.querySelectorAll(".tradeoff").forEach(tradeoff);
  root.querySelectorAll(".figure[data-figure]").forEach((place) => draw(place, place.dataset.figure, rowsOf(place.dataset.rows)));
}

// Show a page; one that is not known is the overview.
function turnTo(name) {
  const page = PAGES.get(name);
  OVERVIEW.hidden = Boolean(page);
  OTHER.hidden = !page;
  OTHER.replaceChildren(...(page ? [page.content.cloneNode(true)] : []));
  if (page) prepare(OTHER);
  if (page) beside(name);
  const task = `task/${name.split("/")[1]}`;
  if (JUMP) JUMP.value = PAGES.has(task) ? task : "overview";
  const links = document.querySelectorAll("nav a");
  links.forEach((link) => link.classList.toggle("here", named(link) === (page ? name : "overview")));
  scrollTo(0, 0);
}

// On the page of a variant: the other variants there, and this one on other tasks.
function beside(name) {
  const place = name.split("/"), path = OTHER.querySelector(".path");
  if (place[0] !== "variant") return;
  const choice = (label, part) => {
    const pages = [...PAGES.keys()].map((other) => other.split("/"));
    const others = pages.filter((other) => other.length === 4 && other.every((of, at) => at === part || of === place[at]));
    if (others.length < 2) return;
    const select = element("select"), box = element("label", { textContent: `${label} ` });
    select.append(...others.map((other) => new Option(other[part], other.join("/"), false, other[part] === place[part])));
    select.addEventListener("change", () => go(select.value));
    box.append(select);
    path.append(box);
  };
  choice("variant", 3);
  choice("on task", 1);
}

function named(link) {
  return decodeURIComponent(link.getAttribute("href").slice(1));
}

// Within the report of Snakemake, a page has no address of its own.
function go(name) {
  try { history.pushState(null, "", "#" + encodeURIComponent(name)); } catch { /* no history there */ }
  turnTo(name);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (!link) return;
  event.preventDefault();
  go(named(link));
});
if (JUMP) JUMP.addEventListener("change", () => go(JUMP.value));
addEventListener("popstate", () => turnTo(decodeURIComponent(location.hash.slice(1))));
prepare(OVERVIEW);
turnTo(decodeURIComponent(location.hash.slice(1)));

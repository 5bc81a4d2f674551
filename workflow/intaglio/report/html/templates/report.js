const SPECIFICATIONS = JSON.parse(document.getElementById("specifications").textContent);
const PAGES = new Map([...document.querySelectorAll("template[data-page]")].map((page) => [page.dataset.page, page]));
const OVERVIEW = document.getElementById("overview"), OTHER = document.getElementById("page");
const LOOK = {
  font: 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif', view: { stroke: null },
  axis: { gridColor: "#e4e7eb", domainColor: "#c9d1d9", tickColor: "#c9d1d9", labelColor: "#1f2328",
          titleColor: "#57606a", titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 12 },
};

// Draw a figure with these rows; a click on a mark opens its page.
function draw(place, name, rows, titles = {}) {
  const text = JSON.stringify(SPECIFICATIONS[name]);
  const specification = JSON.parse(text, (key, value) => (key === "title" && value in titles ? titles[value] : value));
  specification.datasets = { rows };
  const options = { renderer: "svg", config: LOOK, actions: { export: true, source: false, compiled: false, editor: false } };
  return vegaEmbed(place, specification, options).then(({ view }) =>
    view.addEventListener("click", (_, mark) => mark && mark.datum && mark.datum.page && go(mark.datum.page)));
}

// Rows are stored by column.
function rowsOf(text) {
  const columns = Object.entries(JSON.parse(text)), count = columns.length ? columns[0][1].length : 0;
  return Array.from({ length: count }, (_, row) => Object.fromEntries(columns.map(([name, values]) => [name, values[row]])));
}

// The figure of all variants, drawn again after every choice.
function tradeoff(box) {
  const points = rowsOf(box.dataset.points), form = box.querySelector("form"), place = box.querySelector(".figure");
  function show() {
    const { axis, panel, device, backend } = Object.fromEntries(new FormData(form));
    const rows = points
      .filter((row) => row.panel === panel && (row.device === device || !row.device))
      .filter((row) => (backend ? row.backend === backend : row.fastest) && row[axis] !== null)
      .map((row) => ({ ...row, x: row[axis], interval: row.low === row.high ? "–" : `${row.low} to ${row.high}` }));
    const beats = (one, two) =>
      one.x <= two.x && one.better * one.value >= two.better * two.value && (one.x < two.x || one.value !== two.value);
    const middle = rows.reduce((sum, row) => sum + row.x, 0) / rows.length;
    for (const row of rows) {
      row.side = row.x <= middle ? "left" : "right";
      row.front = !rows.some((other) => beats(other, row));
      row.label = row.front || row.recommended || rows.length <= 9 ? row.variant + (row.recommended ? " ★" : "") : "";
    }
    const title = form.elements.axis.selectedOptions[0].textContent;
    if (rows.length) draw(place, "tradeoff", rows, { $x: title, $y: rows[0].metric });
    else place.textContent = "Nothing was measured here.";
  }
  form.addEventListener("change", show);
  show();
}

// Sorting by a click on a heading; search, choice of columns and CSV where a table has tools.
function table(box) {
  const heads = [...box.querySelectorAll("th")], body = box.querySelector("tbody"), rows = [...body.rows];
  const key = (row, column) => {
    const text = row.cells[column].textContent.trim();
    if (text === "–") return null;
    const number = parseFloat(text.replace("−", "-"));
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
  const links = document.querySelectorAll("nav a");
  links.forEach((link) => link.classList.toggle("here", named(link) === (page ? name : "overview")));
  scrollTo(0, 0);
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
const JUMP = document.getElementById("jump");
if (JUMP) JUMP.addEventListener("change", () => go(JUMP.value));
addEventListener("popstate", () => turnTo(decodeURIComponent(location.hash.slice(1))));
prepare(OVERVIEW);
turnTo(decodeURIComponent(location.hash.slice(1)));

// Theme, contents and search of the configuration; at the end everything starts.

function startTheme() {
  const button = document.getElementById("theme"), root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const show = (theme) => {
    root.dataset.theme = theme;
    button.setAttribute("aria-pressed", String(theme === "dark"));
  };
  button.addEventListener("click", () => { chosen = root.dataset.theme === "dark" ? "light" : "dark"; show(chosen); });
  const follow = () => show(chosen || (system.matches ? "dark" : "light"));
  system.addEventListener("change", follow);
  window.addEventListener("beforeprint", () => { root.dataset.theme = "light"; });
  window.addEventListener("afterprint", follow);
  follow();
}

function startContents() {
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const nav = document.querySelector("nav");
  const mark = (id) => links.forEach((link, key) => {
    if (key !== id) return link.removeAttribute("aria-current");
    link.setAttribute("aria-current", "true");
    nav.scrollTo({ left: link.offsetLeft - nav.clientWidth / 2 + link.offsetWidth / 2 });
    return undefined;
  });
  const observer = new IntersectionObserver(
    (entries) => entries.forEach((entry) => { if (entry.isIntersecting) mark(entry.target.id); }),
    { rootMargin: "-20% 0px -75% 0px" },
  );
  document.querySelectorAll("main > section").forEach((section) => observer.observe(section));
}

function startSearch() {
  const field = document.querySelector("[data-search]");
  if (!field) return;
  const parts = [...document.querySelectorAll(".config details")].map((part) => [part, part.open]);
  const nothing = document.querySelector("[data-nothing]");
  field.addEventListener("input", () => {
    const terms = field.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    let any = false;
    for (const [part, open] of parts) {
      let partMatches = false;
      for (const row of part.querySelectorAll("[data-setting]")) {
        const text = row.textContent.toLowerCase(), match = !terms.length || terms.some((term) => text.includes(term));
        row.hidden = !match;
        partMatches = partMatches || match;
      }
      part.hidden = !partMatches;
      part.open = terms.length ? partMatches : open;
      any = any || partMatches;
    }
    nothing.hidden = any;
  });
}

startTheme();
const report = JSON.parse(document.getElementById("report-data").textContent);
startImages(report.images);
startCharts(report.charts);
startFilms(report.films, report.images);
startMix();
startSimilarity(report.patches);
startContents();
startSearch();
document.documentElement.dataset.ready = "true";

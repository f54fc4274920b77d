// What the theme lacks for keyboards and screen readers: wide blocks can be scrolled, and parts of a page have names.
addEventListener("DOMContentLoaded", () => {
  for (const wide of document.querySelectorAll("pre, .table-wrapper")) wide.tabIndex = 0;
  for (const caption of document.querySelectorAll("[role=heading]:not([aria-level])")) caption.ariaLevel = "2";
  document.querySelector(".sidebar-drawer")?.setAttribute("aria-label", "site");
  document.querySelector(".toc-drawer")?.setAttribute("aria-label", "page");
});

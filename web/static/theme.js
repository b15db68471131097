// Before anything is drawn: the theme the reader chose, if any (otherwise the system's).
const chosen = localStorage.getItem("theme");
if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;

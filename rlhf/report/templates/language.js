// Which of the page's two languages is shown, and the words that scripts set.
window.report = (() => {
  const words = JSON.parse(document.getElementById("words").textContent);
  const listeners = [];
  const root = document.documentElement;
  const button = document.getElementById("ui-language");

  function word(key, ...parts) {
    const text = words[key][root.dataset.ui];
    return text.replace(/\{(\d)\}/g, (_, index) => parts[Number(index)]);
  }

  // The name of a language or a model; what has none in this report is shown as the data have it.
  function name(kind, code) {
    return words[`${kind}-${code}`] ? word(`${kind}-${code}`) : code;
  }

  function show(language) {
    root.dataset.ui = language;
    root.lang = language === "zh" ? "zh-CN" : "en";
    const other = language === "zh" ? "en" : "zh";
    button.textContent = other === "zh" ? "中文" : "English";
    button.lang = other === "zh" ? "zh-CN" : "en";
    button.setAttribute("aria-label", other === "zh" ? "切换到中文" : "Switch to English");
    for (const element of document.querySelectorAll("[data-word]")) element.textContent = word(element.dataset.word);
    for (const element of document.querySelectorAll("[data-label]")) {
      element.setAttribute("aria-label", word(element.dataset.label));
    }
    for (const listener of listeners) listener();
  }

  button.addEventListener("click", () => show(root.dataset.ui === "zh" ? "en" : "zh"));
  show((navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en");
  return { word, name, onLanguage: (listener) => listeners.push(listener), language: () => root.dataset.ui };
})();

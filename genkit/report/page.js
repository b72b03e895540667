"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("scripted");

  // Pictures, enlarged by whole factors where the screen has no pixels to spare.
  const viewer = document.getElementById("viewer");
  const large = viewer.querySelector("img");
  const enlarge = (image) => {
    const room = Math.min((innerWidth * 0.96 - 44) / image.naturalWidth, (innerHeight * 0.96 - 100) / image.naturalHeight);
    const factor = devicePixelRatio > 1 ? room : Math.max(Math.floor(room), 1);
    large.src = image.src;
    large.alt = image.alt;
    large.width = image.naturalWidth * factor;
    large.height = image.naturalHeight * factor;
    large.hidden = false;
    document.getElementById("viewer-caption").textContent = image.alt;
    viewer.showModal();
  };
  for (const image of document.querySelectorAll("img[data-enlarge]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "enlarge";
    button.title = "Enlarge";
    image.replaceWith(button);
    button.append(image);
    button.addEventListener("click", () => enlarge(image));
  }
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer || event.target === large || event.target.id === "viewer-close") viewer.close();
  });

  // Growth: one share of training for all models.
  const share = document.getElementById("share");
  if (share) {
    const text = document.getElementById("share-text");
    const play = document.getElementById("play");
    const models = [...document.querySelectorAll(".growing")];
    const show = () => {
      text.textContent = share.value + "%";
      share.setAttribute("aria-valuetext", share.value + "% of training");
      for (const model of models) {
        const frames = [...model.querySelectorAll("li")];
        const distance = (frame) => Math.abs(frame.dataset.share - share.value);
        const nearest = frames.reduce((best, frame) => (distance(frame) < distance(best) ? frame : best));
        for (const frame of frames) frame.classList.toggle("current", frame === nearest);
        model.querySelector(".moment").textContent = nearest.dataset.label;
        model.querySelector(".frames").removeAttribute("tabindex");
      }
    };
    let timer = 0;
    const stop = () => {
      clearInterval(timer);
      timer = 0;
      play.textContent = "Play";
      play.setAttribute("aria-pressed", "false");
    };
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (share.value === share.max) share.value = 0;
      play.textContent = "Pause";
      play.setAttribute("aria-pressed", "true");
      show();
      timer = setInterval(() => {
        share.value = Number(share.value) + 1;
        show();
        if (share.value === share.max) stop();
      }, 60);
    });
    share.addEventListener("input", () => { stop(); show(); });
    document.querySelector(".scrubber").hidden = false;
    show();
  }

  // Classes: all rows of samples, or the row of one class.
  const choice = document.getElementById("class");
  if (choice) {
    choice.addEventListener("change", () => {
      const row = Number(choice.value);
      for (const figure of document.querySelectorAll("#classes figure[data-rows]")) {
        const rows = Number(figure.dataset.rows);
        const image = figure.querySelector("img");
        const height = image.height / rows;
        const one = row >= 0 && rows > 0;
        figure.hidden = one && row >= rows;
        image.parentElement.style.overflow = one ? "hidden" : "";
        image.parentElement.style.height = one ? height + "px" : "";
        image.style.marginTop = one ? -row * height + "px" : "";
      }
    });
    document.querySelector(".picker").hidden = false;
  }

  // Charts: the values nearest to the pointer, or to where the arrow keys have moved.
  const make = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  for (const figure of document.querySelectorAll("figure.chart")) {
    const svg = figure.querySelector("svg");
    const readout = figure.querySelector("output");
    const lines = [...svg.querySelectorAll("path[data-x]")].map((path) => ({
      name: path.dataset.name,
      points: path.getAttribute("d").replace("h0", "").slice(1).split(/[ML]/).map((point) => point.split(",").map(Number)),
      xs: path.dataset.x.split(" "),
      ys: path.dataset.y.split(" "),
      parent: path.parentNode,
    }));
    if (!lines.length) continue;
    const guide = make("line", { class: "guide", y1: 12, y2: svg.viewBox.baseVal.height - 26, visibility: "hidden" });
    svg.append(guide);
    const probes = lines.map((line) => {
      const probe = make("circle", { class: "probe", r: 3.5, visibility: "hidden" });
      line.parent.append(probe);
      return probe;
    });
    const longest = lines.reduce((a, b) => (b.points.length > a.points.length ? b : a));
    let at = -1;
    const nearest = (line, x) => {
      let best = 0;
      line.points.forEach((point, i) => { if (Math.abs(point[0] - x) < Math.abs(line.points[best][0] - x)) best = i; });
      return best;
    };
    const show = (x) => {
      at = nearest(longest, x);
      const place = longest.points[at][0];
      guide.setAttribute("x1", place);
      guide.setAttribute("x2", place);
      guide.setAttribute("visibility", "visible");
      const said = lines.map((line, i) => {
        const j = nearest(line, place);
        const close = Math.abs(line.points[j][0] - place) < 12;
        probes[i].setAttribute("cx", line.points[j][0]);
        probes[i].setAttribute("cy", line.points[j][1]);
        probes[i].setAttribute("visibility", close ? "visible" : "hidden");
        return close ? (lines.length > 1 ? line.name + " " : "") + line.ys[j] : "";
      });
      readout.textContent = [...said.filter(Boolean), longest.xs[at] + " " + svg.dataset.unit].join(" · ");
      readout.title = readout.textContent;
    };
    const hide = () => {
      for (const mark of [guide, ...probes]) mark.setAttribute("visibility", "hidden");
      readout.textContent = "";
      at = -1;
    };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      show(((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width);
    });
    svg.addEventListener("pointerleave", hide);
    svg.setAttribute("tabindex", "0");
    svg.addEventListener("focus", () => { if (svg.matches(":focus-visible")) show(longest.points.at(-1)[0]); });
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step || at < 0) return;
      event.preventDefault();
      show(longest.points[Math.min(Math.max(at + step, 0), longest.points.length - 1)][0]);
    });
  }
})();

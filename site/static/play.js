/* The pictures to play with. Each has `numbers`, which computes, `draw`, which makes an SVG of them,
   and words in both languages. Nothing here needs a library or the network. In the browser the
   sliders are put under the pictures that the page shows already; in node the file is a module, so
   that its numbers can be compared with the package's. */
"use strict";
(() => {
  const sigmoid = (t) => 1 / (1 + Math.exp(-t));
  const text = (value, digits = 3) => (Object.is(value, -0) ? 0 : value).toFixed(digits).replace("-", "−");
  const small = (value) => (value !== 0 && Math.abs(value) < 0.0005 ? value.toExponential(1).replaceAll("-", "−") : text(value));
  const BLUE = "var(--color-brand-primary, #0072B2)", ORANGE = "#D55E00";

  // ------------------------------------------------------------------------------ drawing
  const svg = (width, height, words, inside) =>
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img" aria-label="${words}" ` +
    `font-family="sans-serif" font-size="13" fill="currentColor">${inside}</svg>`;

  /** A panel with axes: { x(value), y(value), inside } over the given ranges. */
  function panel(box, xs, ys, xTicks, yTicks, xLabel, yLabel) {
    const [left, top, width, height] = box;
    const x = (v) => +(left + (width * (v - xs[0])) / (xs[1] - xs[0])).toFixed(2);
    const y = (v) => +(top + height - (height * (v - ys[0])) / (ys[1] - ys[0])).toFixed(2);
    let inside = "";
    for (const v of xTicks) {
      inside += `<path d="M${x(v)} ${top}V${top + height}" stroke="currentColor" opacity=".15"/>` +
        `<text x="${x(v)}" y="${top + height + 17}" text-anchor="middle">${text(v, 0)}</text>`;
    }
    for (const v of yTicks) {
      inside += `<path d="M${left} ${y(v)}H${left + width}" stroke="currentColor" opacity=".15"/>` +
        `<text x="${left - 7}" y="${y(v) + 4}" text-anchor="end">${v}</text>`;
    }
    inside += `<text x="${left + width / 2}" y="${top + height + 36}" text-anchor="middle">${xLabel}</text>` +
      `<text x="${left - 7}" y="${top - 12}">${yLabel}</text>`;
    return { x, y, inside };
  }
  const line = (points, colour, more = "") =>
    `<path d="M${points.map((p) => p.join(" ")).join("L")}" fill="none" stroke="${colour}" stroke-width="2.5" ${more}/>`;

  const pictures = {};

  // ------------------------------------------------------------------- from gamma to the gate
  pictures.gate = {
    controls: [
      { name: "channels", values: [1, 2, 4, 8, 12, 16, 32, 64, 128, 256, 512], start: 16 },
      { name: "gamma", min: -12, max: 12, step: 0.1, start: 1 },
      { name: "beta", min: -3, max: 3, step: 0.1, start: 0 },
      { name: "xHat", min: -3, max: 3, step: 0.1, start: 2 },
    ],
    /** Equation (2) for one channel; the gammas of all others are 1. A layer whose gammas are all 0
        gives every channel the weight 1/C, as `gamma_weights` does. */
    numbers({ channels, gamma, beta, xHat }) {
      const total = Math.abs(gamma) + channels - 1;
      const weight = total > 0 ? Math.abs(gamma) / total : 1 / channels;
      const logit = weight * (gamma * xHat + beta);
      const gate = sigmoid(logit);
      return { weight, logit, gate, output: gate * xHat };
    },
    draw(at, words) {
      const n = this.numbers(at);
      const p = panel([44, 34, 360, 200], [-3, 3], [0, 1], [-3, -2, -1, 0, 1, 2, 3], [0, 0.25, 0.5, 0.75, 1], "x̂", words.gate);
      const curve = [];
      for (let k = -60; k <= 60; k++) curve.push([p.x(k / 20), p.y(this.numbers({ ...at, xHat: k / 20 }).gate)]);
      const half = line([[p.x(-3), p.y(0.5)], [p.x(3), p.y(0.5)]], "currentColor", 'stroke-dasharray="6 5" opacity=".6"');
      const point = `<circle cx="${p.x(at.xHat)}" cy="${p.y(n.gate)}" r="7" fill="${ORANGE}" stroke="currentColor"/>`;
      return svg(420, 276, this.say(at, words), p.inside + half + line(curve, BLUE) + point);
    },
    say(at, words) {
      const n = this.numbers(at);
      return words.say(text(at.channels, 0), text(at.gamma, 1), text(at.xHat, 1), small(n.gate));
    },
    shown(at, words) {
      const n = this.numbers(at);
      return [
        [words.weight, small(n.weight)], [words.logit, small(n.logit)],
        [words.gate, small(n.gate)], [words.output, small(n.output)],
      ];
    },
    en: {
      channels: "C, channels of the layer", gamma: "γ of this channel (the others: 1)", beta: "β of this channel",
      xHat: "x̂, the standardised value", weight: "W = |γ| / (|γ| + C − 1)", logit: "logit = W (γ x̂ + β)", gate: "gate = sigmoid(logit)",
      output: "output = gate · x̂",
      say: (c, g, x, v) => `The gate over x̂, in a layer of ${c} channels with γ = ${g}; at x̂ = ${x} it is ${v}. A dashed line marks one half.`,
    },
    zh: {
      channels: "C，这一层的通道数", gamma: "这个通道的 γ（其余都是 1）", beta: "这个通道的 β",
      xHat: "x̂，标准化之后的值", weight: "W = |γ| / (|γ| + C − 1)", logit: "logit = W (γ x̂ + β)", gate: "门控 = sigmoid(logit)",
      output: "输出 = 门控 · x̂",
      say: (c, g, x, v) => `门控随 x̂ 的变化：这一层有 ${c} 个通道，γ = ${g}；x̂ = ${x} 时门控是 ${v}。虚线是 ½。`,
    },
  };

  // --------------------------------------------------- gamma under weight decay and penalty
  pictures.decay = {
    controls: [
      { name: "epochs", values: [5, 10, 20, 30, 60, 100, 200], start: 20 },
      { name: "rate", values: [0.01, 0.02, 0.05, 0.1, 0.2], start: 0.1 },
      { name: "weightDecay", values: [0, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3], start: 5e-4 },
      { name: "momentum", values: [0, 0.5, 0.8, 0.9, 0.95], start: 0.9 },
      { name: "penalty", values: [0, 1e-5, 1e-4, 2e-4, 5e-4, 1e-3], start: 0 },
    ],
    /** A gamma of 1 that weight decay and penalty alone act on: Nesterov's steps, the rate falling
        along a cosine by epoch from `rate`; after each epoch. `formula` leaves the penalty out. */
    numbers({ epochs, rate, weightDecay, momentum, penalty, steps = 391 }) {
      let gamma = 1, v = 0, sum = 0;
      const simulated = [1], formula = [1];
      for (let epoch = 0; epoch < epochs; epoch++) {
        const now = (rate * (1 + Math.cos((Math.PI * epoch) / epochs))) / 2;
        for (let step = 0; step < steps; step++) {
          const g = weightDecay * gamma + penalty * Math.sign(gamma);
          v = momentum * v + g;
          gamma -= now * (g + momentum * v);
        }
        sum += now * steps;
        simulated.push(gamma);
        formula.push(Math.exp((-weightDecay / (1 - momentum)) * sum));
      }
      return { simulated, formula, decay: (weightDecay / (1 - momentum)) * sum };
    },
    draw(at, words) {
      const n = this.numbers(at);
      const marks = [0, 1, 2, 3, 4, 5].map((k) => (k * at.epochs) / 5);
      const p = panel([44, 34, 360, 200], [0, at.epochs], [0, 1], marks, [0, 0.25, 0.5, 0.75, 1], words.epoch, "|γ|");
      const points = (values) => values.map((value, epoch) => [p.x(epoch), p.y(Math.abs(value))]);
      const key = line([[190, 50], [216, 50]], BLUE) + `<text x="224" y="54">${words.simulated}</text>` +
        line([[190, 72], [216, 72]], ORANGE, 'stroke-dasharray="3 5"') + `<text x="224" y="76">${words.formula}</text>`;
      return svg(420, 276, this.say(at, words),
        p.inside + line(points(n.simulated), BLUE) + line(points(n.formula), ORANGE, 'stroke-dasharray="3 5"') + key);
    },
    say(at, words) {
      const n = this.numbers(at);
      return words.say(at.epochs, small(Math.abs(n.simulated.at(-1))), small(n.formula.at(-1)));
    },
    shown(at, words) {
      const n = this.numbers(at);
      return [["D = λ / (1 − m) · Σ rate", text(n.decay, 2)], ["exp(−D)", small(n.formula.at(-1))],
        [words.end, small(Math.abs(n.simulated.at(-1)))]];
    },
    en: {
      epochs: "epochs, of 391 steps", rate: "learning rate at its highest", weightDecay: "weight decay λ", momentum: "momentum m",
      penalty: "penalty p", epoch: "epoch", simulated: "simulated, step by step", formula: "formula, without penalty", end: "|γ| at the end, simulated",
      say: (e, s, f) => `|γ| falls from 1 over ${e} epochs. Simulated it ends at ${s}; the formula, which leaves the penalty out, at ${f}.`,
    },
    zh: {
      epochs: "轮数（每轮 391 步）", rate: "学习率的最大值", weightDecay: "权重衰减 λ", momentum: "动量 m",
      penalty: "惩罚项 p", epoch: "轮数", simulated: "逐步模拟", formula: "公式，不含惩罚项", end: "模拟结束时的 |γ|",
      say: (e, s, f) => `|γ| 在 ${e} 轮里从 1 往下走。模拟结束时是 ${s}；不含惩罚项的公式给出 ${f}。`,
    },
  };

  // ------------------------------------------------------------ a constant in the gate's place
  // A drawn map of 8 by 8 pixels: a bright ring on a dark ground.
  const MAP = [
    [0, 0, 1, 1, 1, 1, 0, 0], [0, 2, 6, 8, 8, 6, 2, 0], [1, 6, 9, 5, 5, 9, 6, 1], [1, 8, 5, 1, 1, 5, 8, 1],
    [1, 8, 5, 1, 1, 5, 8, 1], [1, 6, 9, 5, 5, 9, 6, 1], [0, 2, 6, 8, 8, 6, 2, 0], [0, 0, 1, 1, 1, 1, 0, 0],
  ].map((row) => row.map((v) => v / 10));
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const deviation = (values) => Math.sqrt(mean(values.map((v) => (v - mean(values)) ** 2)));

  pictures.constant = {
    controls: [
      { name: "channels", values: [1, 2, 4, 8, 12, 16, 32, 64, 128, 256, 512], start: 16 },
      { name: "gamma", min: 0, max: 8, step: 0.1, start: 1 },
      { name: "constant", min: 0, max: 1, step: 0.01, start: 0.5 },
    ],
    /** One channel of a NAM layer, beta 0, the gammas of all others 1, and a constant in the place
        of its gate. `difference` is the root of the mean square of the outputs' difference. */
    numbers({ channels, gamma, constant }) {
      const x = MAP.flat();
      const centre = mean(x), scale = Math.sqrt(deviation(x) ** 2 + 1e-5);
      const gate = x.map((v) => pictures.gate.numbers({ channels, gamma, beta: 0, xHat: (v - centre) / scale }).gate);
      const output = x.map((v, k) => gate[k] * v), instead = x.map((v) => constant * v);
      const difference = Math.sqrt(mean(output.map((v, k) => (v - instead[k]) ** 2)));
      return { gate, output, instead, mean: mean(gate), spread: deviation(gate), difference, share: difference / Math.sqrt(mean(output.map((v) => v * v))) };
    },
    draw(at, words) {
      const n = this.numbers(at);
      const tiles = (values, left, top, title) =>
        `<text x="${left}" y="${top - 8}">${title}</text>` +
        values.map((v, k) => {
          const shade = Math.round(255 * Math.max(0, Math.min(1, v)));
          return `<rect x="${left + 12 * (k % 8)}" y="${top + 12 * Math.floor(k / 8)}" width="12.3" height="12.3" fill="rgb(${shade},${shade},${shade})"/>`;
        }).join("") + `<rect x="${left}" y="${top}" width="96.3" height="96.3" fill="none" stroke="currentColor" opacity=".5"/>`;
      const bar = Array.from({ length: 24 }, (_, k) => {
        const shade = Math.round((255 * k) / 23);
        return `<rect x="${150 + 5 * k}" y="140" width="5.4" height="10" fill="rgb(${shade},${shade},${shade})"/>`;
      }).join("");
      return svg(420, 156, this.say(at, words),
        tiles(MAP.flat(), 4, 28, words.map) + tiles(n.gate, 109, 28, words.gate) + tiles(n.output, 214, 28, words.output) +
        tiles(n.instead, 319, 28, words.instead) + bar + '<text x="143" y="150" text-anchor="end">0</text><text x="277" y="150">1</text>');
    },
    say(at, words) {
      const n = this.numbers(at);
      return words.say(small(Math.min(...n.gate)), small(Math.max(...n.gate)), text(at.constant, 2), text(100 * n.share, 1));
    },
    shown(at, words) {
      const n = this.numbers(at);
      return [[words.mean, small(n.mean)], [words.spread, small(n.spread)],
        [words.difference, small(n.difference)], [words.share, text(100 * n.share, 1) + " %"]];
    },
    en: {
      channels: "C, channels of the layer", gamma: "γ of this channel (the others: 1)", constant: "the constant in the gate's place",
      map: "map", gate: "gate", output: "gate · map", instead: "constant · map", mean: "mean of the gate", spread: "standard deviation of the gate",
      difference: "difference of the outputs (root mean square)", share: "the same, as a share of the output",
      say: (a, b, c, d) => `A map of 8 by 8 pixels, its gate from ${a} to ${b}, the output with the gate and with the constant ${c}; the outputs differ by ${d} per cent.`,
    },
    zh: {
      channels: "C，这一层的通道数", gamma: "这个通道的 γ（其余都是 1）", constant: "代替门控的常数",
      map: "特征图", gate: "门控", output: "门控 · 特征图", instead: "常数 · 特征图", mean: "门控的均值", spread: "门控的标准差",
      difference: "两个输出之差（均方根）", share: "这个差相当于输出的百分之几",
      say: (a, b, c, d) => `8×8 像素的特征图，门控从 ${a} 到 ${b}；一边乘门控，一边乘常数 ${c}，两个输出相差 ${d} %。`,
    },
  };

  const starts = (picture) => Object.fromEntries(picture.controls.map((control) => [control.name, control.start]));

  if (typeof module === "object") {
    module.exports = { pictures, starts, MAP };
    return;
  }

  // ------------------------------------------------------------------------- in the browser
  /** A slider with its label and its value; `changed` is called with the new value. */
  function slider(picture, control, words, id, changed) {
    const row = document.createElement("p");
    const label = Object.assign(document.createElement("label"), { htmlFor: id, textContent: words[control.name] });
    const value = Object.assign(document.createElement("output"), { htmlFor: id });
    const input = Object.assign(document.createElement("input"), { type: "range", id });
    const { values } = control;
    Object.assign(input, values ? { min: 0, max: values.length - 1, step: 1 } : { min: control.min, max: control.max, step: control.step });
    const chosen = () => (values ? values[input.value] : +input.value);
    const show = () => {
      value.textContent = values ? String(chosen()) : text(chosen(), control.step < 0.1 ? 2 : 1);
      input.setAttribute("aria-valuetext", value.textContent);
    };
    const reset = () => {
      input.value = values ? values.indexOf(control.start) : control.start;
      show();
    };
    input.addEventListener("input", () => { show(); changed(control.name, chosen()); });
    reset();
    row.append(label, input, value);
    return { row, reset };
  }

  function start(figure, number) {
    const picture = pictures[figure.dataset.picture];
    const language = document.documentElement.lang.startsWith("zh") ? "zh" : "en";
    const words = picture[language];
    let at = starts(picture);
    const controls = Object.assign(document.createElement("div"), { className: "play-controls" });
    const table = Object.assign(document.createElement("dl"), { className: "play-numbers" });
    const drawing = figure.querySelector("svg").parentNode;
    const draw = () => {
      drawing.innerHTML = picture.draw(at, words);
      table.replaceChildren(...picture.shown(at, words).map(([name, value]) => {
        const pair = document.createElement("div");
        pair.append(Object.assign(document.createElement("dt"), { textContent: name }), Object.assign(document.createElement("dd"), { textContent: value }));
        return pair;
      }));
    };
    const sliders = picture.controls.map((control) =>
      slider(picture, control, words, `play-${number}-${control.name}`, (name, value) => { at = { ...at, [name]: value }; draw(); }));
    const again = Object.assign(document.createElement("button"), { type: "button", textContent: language === "zh" ? "重来" : "Start again" });
    again.addEventListener("click", () => { at = starts(picture); sliders.forEach((s) => s.reset()); draw(); });
    table.setAttribute("aria-live", "polite");
    controls.append(...sliders.map((s) => s.row), again);
    figure.append(controls, table);
    draw();
  }

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll("figure.play").forEach(start));
})();

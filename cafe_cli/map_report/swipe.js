"use strict";
// The pictures of the whole map, two at a time, on both sides of a line that moves.
(() => {
  const swipe = document.getElementById("swipe");
  if (!swipe) return;
  const figures = [...document.querySelectorAll("#layers figure")];
  const stage = swipe.querySelector(".stage");
  const position = document.getElementById("position");
  const sides = ["left", "right"].map((side) => ({
    select: document.getElementById(side),
    image: stage.querySelector("img." + side),
    note: swipe.querySelector(".note-" + side),
  }));

  const move = () => {
    stage.style.setProperty("--at", position.value + "%");
    position.setAttribute("aria-valuetext", position.value + " % from the left");
  };
  const show = ({ select, image, note }) => {
    const figure = figures[Number(select.value)];
    const picture = figure.querySelector("img");
    image.src = picture.src;
    image.alt = picture.alt;
    note.textContent = figure.querySelector("figcaption").textContent;
  };
  const drag = (event) => {
    const box = stage.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    position.value = Math.round(100 * Math.min(Math.max(share, 0), 1));
    move();
  };

  for (const side of sides) {
    side.select.addEventListener("change", () => show(side));
    show(side);
  }
  position.addEventListener("input", move);
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.target.closest("a")) return;
    event.preventDefault();
    stage.setPointerCapture(event.pointerId);
    drag(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) drag(event);
  });
  const marks = document.getElementById("marks");
  if (marks) {
    const drawn = stage.querySelector("svg");
    marks.addEventListener("change", () => drawn.classList.toggle("off", !marks.checked));
  }
  move();
  swipe.hidden = false;
  document.getElementById("layers").classList.add("replaced");
})();

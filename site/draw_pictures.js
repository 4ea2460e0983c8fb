/* Draw the pictures to play with as they are before any script runs: node draw_pictures.js FOLDER.
   The pages hold these drawings, so that a reader without JavaScript sees them. */
const fs = require("node:fs");
const path = require("node:path");
const { pictures, starts } = require("./static/play.js");

const folder = process.argv[2];
fs.mkdirSync(folder, { recursive: true });
for (const [name, picture] of Object.entries(pictures)) {
  for (const language of ["en", "zh"]) {
    fs.writeFileSync(path.join(folder, `${name}.${language}.svg`), picture.draw(starts(picture), picture[language]));
  }
}

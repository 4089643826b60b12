#!/usr/bin/env python3
"""Parses an SVG picture of emg-cache and prints how many lines and rectangles it draws."""

import sys
import xml.etree.ElementTree as ElementTree

SVG = "{http://www.w3.org/2000/svg}"


def main() -> None:
    root = ElementTree.parse(sys.argv[1]).getroot()
    assert root.tag == SVG + "svg", root.tag
    texts = [" ".join(text.itertext()).strip() for text in root.iter(SVG + "text")]
    for title in ("EMG of synth-", "joint angles, degrees", "training split", "valid rows"):
        assert any(title in text for text in texts), (title, texts)
    lines = [line for line in root.iter(SVG + "polyline") if len(line.get("points").split()) > 100]
    print(len(lines), len(list(root.iter(SVG + "rect"))))


if __name__ == "__main__":
    main()

"""An HTML file as a test looks at it: its elements with their attributes, and the text in them."""

from html.parser import HTMLParser

_VOID = {"meta", "link", "img", "br", "hr", "input", "path", "use"}


class Element:
    """``text``: all that is in it."""

    def __init__(self, tag, attributes):
        self.tag, self.attributes, self.text = tag, attributes, ""

    def __getitem__(self, name):
        return self.attributes.get(name)


class Page(HTMLParser):
    """``elements``, in the order of the file."""

    def __init__(self, html):
        super().__init__()
        self.html, self.elements, self._open = html, [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        element = Element(tag, dict(attrs))
        self.elements.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag):
        while self._open and self._open.pop().tag != tag:
            pass

    def handle_data(self, data):
        for element in self._open:
            element.text += data

    def all(self, *tags):
        return [element for element in self.elements if element.tag in tags]

    @property
    def headings(self):
        """(level, text)"""
        return [(int(one.tag[1]), one.text.strip()) for one in self.all("h1", "h2", "h3", "h4", "h5", "h6")]

    @property
    def text(self):
        return self.all("body")[0].text.replace("\u00a0", " ")

    def table(self, caption):
        """The rows of the first table with that caption: lists of texts, the head first."""
        at = next(i for i, one in enumerate(self.elements) if one.tag == "caption" and one.text == caption)
        rows = []
        for element in self.elements[at:]:
            if element.tag == "table":
                break
            if element.tag == "tr":
                rows.append([])
            elif element.tag in ("th", "td"):
                rows[-1].append(element.text.replace("\u00a0", " "))
        return rows

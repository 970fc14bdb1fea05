"""What the tests of the HTML reports know of HTML."""

from collections import Counter
from html.parser import HTMLParser

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Every tag is closed in order, ids are unique, nothing is fetched and nothing runs."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.ids, self.tags, self.texts = [], Counter(), Counter(), []
        self.feed(text)
        self.close()
        assert not self.open
        assert max(self.ids.values()) == 1

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        for name, value in attributes:
            if name == "id":
                self.ids[value] += 1
            assert not name.startswith("on")
            assert name not in ("src", "href", "xlink:href", "srcset") or value.startswith(("data:image/", "#")), value
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.texts.append(data)

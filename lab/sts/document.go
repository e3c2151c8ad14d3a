package sts

import (
	"fmt"
	"net/http"
	"strings"
)

// element is a piece of an answer. The documents are written by hand because clients and golden files want AWS's
// layout, two spaces a level and a final newline, to the byte.
type element struct {
	name, text string
	children   []*element
}

func leaf(name, text string) *element { return &element{name: name, text: text} }

func branch(name string, children ...*element) *element {
	return &element{name: name, children: children}
}

// tree is a result, which gets its name from the action.
func tree(children ...*element) *element { return branch("", children...) }

func (e *element) write(b *strings.Builder, indent string) {
	b.WriteString(indent + "<" + e.name + ">")
	if len(e.children) == 0 {
		b.WriteString(escape(e.text) + "</" + e.name + ">\n")
		return
	}
	b.WriteString("\n")
	for _, c := range e.children {
		c.write(b, indent+"  ")
	}
	b.WriteString(indent + "</" + e.name + ">\n")
}

// document wraps a result in its response.
func (e *element) document(action, requestID string) []byte {
	e.name = action + "Result"
	var b strings.Builder
	b.WriteString("<" + action + `Response xmlns="` + namespace + "\">\n")
	e.write(&b, "  ")
	branch("ResponseMetadata", leaf("RequestId", requestID)).write(&b, "  ")
	b.WriteString("</" + action + "Response>\n")
	return []byte(b.String())
}

func errorDocument(e *Error, requestID string) []byte {
	kind := "Sender"
	if e.Status >= http.StatusInternalServerError {
		kind = "Receiver"
	}
	return fmt.Appendf(nil, `<ErrorResponse xmlns="%s">
  <Error>
    <Type>%s</Type>
    <Code>%s</Code>
    <Message>%s</Message>
  </Error>
  <RequestId>%s</RequestId>
</ErrorResponse>
`, namespace, kind, escape(e.Code), escape(e.Message), requestID)
}

package agent

import (
	"context"
	"errors"
	"testing"

	"taskrole/internal/container"
	"taskrole/internal/fault"
)

// answer is an engine with one answer.
type answer struct {
	known string // name of the only container it knows
	err   error
}

func (a answer) Lookup(_ context.Context, id container.ID) (container.Container, error) {
	if a.err != nil || string(id) != a.known {
		return container.Container{ID: id}, a.err
	}
	return container.Container{ID: id, Known: true, Name: a.known}, nil
}

func (a answer) Details(context.Context, container.ID) (container.Details, error) {
	return container.Details{ImageID: a.known}, a.err
}

func (a answer) Stats(context.Context, container.ID) ([]byte, error) { return []byte(a.known), a.err }

func TestEnginesAreAskedInTurn(t *testing.T) {
	broken := answer{err: fault.New(fault.EngineUnreachable, "it does not answer", "")}
	list := func(answers ...answer) (l engines) {
		for _, a := range answers {
			l = append(l, engine{who: a, what: a})
		}
		return l
	}
	for name, c := range map[string]struct {
		engines engines
		known   bool
		err     bool
	}{
		"the first knows":                  {list(answer{known: "a"}, broken), true, false},
		"the second knows":                 {list(answer{known: "b"}, answer{known: "a"}), true, false},
		"the second, and the first is out": {list(broken, answer{known: "a"}), true, false},
		"nobody":                           {list(answer{known: "b"}, answer{}), false, false},
		"one might have known":             {list(broken, answer{known: "b"}), false, true},
		"the other might have known":       {list(answer{known: "b"}, broken), false, true},
		"there is none":                    {nil, false, false},
	} {
		got, err := c.engines.Lookup(t.Context(), "a")
		if got.Known != c.known || (err != nil) != c.err || err != nil && !errors.Is(err, broken.err) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	l := list(broken, answer{known: "a"})
	d, err := l.Details(t.Context(), "a")
	s, serr := l.Stats(t.Context(), "a")
	if err != nil || serr != nil || d.ImageID != "a" || string(s) != "a" {
		t.Errorf("Details = %+v, %v; Stats = %s, %v", d, err, s, serr)
	}
	if _, err := list(broken).Details(t.Context(), "a"); fault.CodeOf(err) != fault.EngineUnreachable {
		t.Errorf("Details = %v", err)
	}
}

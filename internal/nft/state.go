package nft

import (
	"encoding/binary"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
)

// state is what can be compared to see whether somebody changed the table. A rule is not looked into: the kernel gives
// every new one a new handle, and what is in it never changes.
type state struct {
	flags  uint32 // one of them makes the table sleep
	chains map[string]chainState
	sets   map[string][]uint64
}

type chainState struct {
	hook, priority, policy int64
	rules                  []uint64 // handles
}

func (s state) equal(o state) bool {
	return s.flags == o.flags && maps.EqualFunc(s.sets, o.sets, slices.Equal) &&
		maps.EqualFunc(s.chains, o.chains, func(a, b chainState) bool {
			return a.hook == b.hook && a.priority == b.priority && a.policy == b.policy && slices.Equal(a.rules, b.rules)
		})
}

// read asks the kernel for the table.
func (t *Table) read() (s state, err error) {
	c, err := t.conn()
	if err != nil {
		return s, err
	}
	table, err := c.ListTableOfFamily(TableName, nftables.TableFamilyINet)
	if err != nil {
		return s, err
	}
	s = state{flags: table.Flags, chains: map[string]chainState{}, sets: map[string][]uint64{}}
	for name := range allChains(t.byCgroup) {
		if s.chains[name], err = readChain(c, table, name); err != nil {
			return s, err
		}
	}
	if !t.byCgroup {
		return s, nil
	}
	for _, set := range []*nftables.Set{refusedSet(table), exceptedSet(table)} {
		elements, err := c.GetSetElements(set)
		if err != nil {
			return s, err
		}
		ids := []uint64{}
		for _, e := range elements {
			if len(e.Key) == 8 {
				ids = append(ids, binary.NativeEndian.Uint64(e.Key))
			}
		}
		slices.Sort(ids)
		s.sets[set.Name] = ids
	}
	return s, nil
}

func readChain(c *nftables.Conn, table *nftables.Table, name string) (chainState, error) {
	s := chainState{hook: -1, policy: -1}
	ch, err := c.ListChain(table, name)
	if err != nil {
		return s, err
	}
	if ch.Hooknum != nil && ch.Priority != nil {
		s.hook, s.priority = int64(*ch.Hooknum), int64(*ch.Priority)
	}
	if ch.Policy != nil {
		s.policy = int64(*ch.Policy)
	}
	rules, err := c.GetRules(table, ch)
	for _, r := range rules {
		s.rules = append(s.rules, r.Handle)
	}
	return s, err
}

func allChains(byCgroup bool) map[string]bool {
	names := map[string]bool{"prerouting": true, "forward": true, chainFrom4: true, chainFrom6: true}
	if byCgroup {
		names["output"], names[chainHost] = true, true
	}
	return names
}

// Asked is somebody whose packets to the service were counted, since they last were silent for an hour.
type Asked struct {
	Source  netip.Addr // of who came from another namespace
	Cgroup  uint64     // of whose socket is in the host's own; 0 for the others
	Packets uint64
}

// Asked returns who asked, in no order. It is empty where the table is not there.
func (t *Table) Asked() ([]Asked, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rules == nil {
		return nil, nil
	}
	c, err := t.conn()
	if err != nil {
		return nil, err
	}
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	sets := []*nftables.Set{sources4(table), sources6(table)}
	if t.byCgroup {
		sets = append(sets, sockets(table))
	}
	var asked []Asked
	var errs []error
	for _, set := range sets {
		elements, err := c.GetSetElements(set)
		errs = append(errs, err)
		for _, e := range elements {
			a := Asked{}
			if e.Counter != nil {
				a.Packets = e.Counter.Packets
			}
			if set.Name == setSockets && len(e.Key) == 8 {
				a.Cgroup = binary.NativeEndian.Uint64(e.Key)
			} else if a.Source, _ = netip.AddrFromSlice(e.Key); !a.Source.IsValid() {
				continue
			}
			asked = append(asked, a)
		}
	}
	return asked, errors.Join(errs...)
}

// Package nft keeps one nftables table of ours: the one that holds containers off the host's instance metadata
// service.
//
// It is the one door to nftables. It refuses to touch any other table, chain or rule: what it adds and removes is
// found by the name of its own table, and everything in it changes in one transaction, so that there is no moment with
// half of it. It has no opinion about which cgroups are containers; it is given them.
package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"taskrole/internal/netns"
)

// TableName is the name of our table, of the family inet.
const TableName = "taskrole-guard"

// patience bounds one exchange with the kernel, which answers in milliseconds.
const patience = 10 * time.Second

// transaction bounds what is sent at once: all of the table, with some ten thousand containers.
const transaction = 4 << 20

// Rules are what the table does.
type Rules struct {
	// Enforce drops; without it, what would be dropped is only counted.
	Enforce bool
	// Networks are sources that keep access.
	Networks []netip.Prefix
}

// Table is our table in one network namespace. Its methods may be called by several goroutines.
type Table struct {
	ns *netns.NS

	mu       sync.Mutex // guards what follows
	rules    *Rules     // nil: nothing was put yet
	refused  map[uint64]bool
	excepted map[uint64]bool
	state    state // as the kernel had it after the last change
	byCgroup bool  // whether the table tells the host's own sockets apart
}

// Open returns the table of the namespace ns, which must stay open; nil is the process's own. Nothing is changed yet.
func Open(ns *netns.NS) *Table {
	return &Table{ns: ns, refused: map[uint64]bool{}, excepted: map[uint64]bool{}}
}

// conn is a connection for one exchange: the library opens and closes a socket for each step.
func (t *Table) conn() (*nftables.Conn, error) {
	options := []nftables.ConnOption{nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetDeadline(time.Now().Add(patience)), c.SetWriteBuffer(transaction), c.SetReadBuffer(transaction))
	})}
	if t.ns != nil {
		options = append(options, nftables.WithNetNSFd(t.ns.FD()))
	}
	return nftables.New(options...)
}

// Put makes the table, or makes it anew, with r and the cgroups that Cgroups was told.
func (t *Table) Put(r Rules) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.put(r); err != nil {
		return err
	}
	r.Networks = slices.Clone(r.Networks)
	t.rules = &r
	return nil
}

func (t *Table) put(r Rules) error {
	err := t.write(r, true)
	t.byCgroup = err == nil
	if unsupported(err) { // before Linux 5.13, or without cgroups
		err = t.write(r, false)
	}
	if err != nil {
		return fmt.Errorf("put the table %s: %w", TableName, err)
	}
	return t.remember()
}

func unsupported(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)
}

// building is held while sets get their numbers: the library counts those of all connections in one variable.
var building sync.Mutex

func (t *Table) write(r Rules, byCgroup bool) error {
	building.Lock()
	defer building.Unlock()
	c, err := t.conn()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Name: TableName, Family: nftables.TableFamilyINet})
	c.DelTable(table) // with the line above: it goes, whether it was there or not
	c.AddTable(table)
	b := builder{conn: c, table: table, rules: r}
	if err := b.build(byCgroup, elements(t.refused), elements(t.excepted)); err != nil {
		return err
	}
	return c.Flush()
}

func (t *Table) remember() error {
	s, err := t.read()
	if err != nil {
		return fmt.Errorf("read the table %s: %w", TableName, err)
	}
	t.state = s
	return nil
}

// HostNetwork says whether the table could be made to tell the sockets of containers on the host's own network from
// the host's. That needs Linux 5.13 and cgroup v2.
func (t *Table) HostNetwork() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byCgroup
}

// Cgroups says which cgroups are containers, by id, and which of them keep access. Everything below a cgroup is as it
// is; an exception below a container counts. Only the difference to the last call is written.
func (t *Table) Cgroups(refused, excepted map[uint64]bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := [2]map[uint64]bool{t.refused, t.excepted}
	t.refused, t.excepted = maps.Clone(refused), maps.Clone(excepted)
	if t.rules == nil || !t.byCgroup {
		return nil
	}
	if err := t.difference(old); err != nil {
		// Somebody has changed the table meanwhile, or it is full of what we do not know: make it anew.
		return t.put(*t.rules)
	}
	return t.remember()
}

func (t *Table) difference(old [2]map[uint64]bool) error {
	c, err := t.conn()
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	now := [2]map[uint64]bool{t.refused, t.excepted}
	for i, set := range []*nftables.Set{refusedSet(table), exceptedSet(table)} {
		err := errors.Join(
			inParts(c.SetAddElements, set, elements(without(now[i], old[i]))),
			inParts(c.SetDeleteElements, set, elements(without(old[i], now[i]))),
		)
		if err != nil {
			return err
		}
	}
	return c.Flush()
}

// inParts hands elements on in parts that a message has room for: a list has at most 64 KiB.
func inParts(change func(*nftables.Set, []nftables.SetElement) error, set *nftables.Set, all []nftables.SetElement) error {
	const most = 1000
	for part := range slices.Chunk(all, most) {
		if err := change(set, part); err != nil {
			return err
		}
	}
	return nil
}

func without(a, b map[uint64]bool) map[uint64]bool {
	a = maps.Clone(a)
	maps.DeleteFunc(a, func(id uint64, _ bool) bool { return b[id] })
	return a
}

func elements(ids map[uint64]bool) []nftables.SetElement {
	var all []nftables.SetElement
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		all = append(all, nftables.SetElement{Key: binary.NativeEndian.AppendUint64(nil, id)})
	}
	return all
}

// Check looks whether the table is still what was put, and makes it anew if it is not. It says whether it had to.
func (t *Table) Check() (restored bool, _ error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rules == nil {
		return false, nil
	}
	if now, err := t.read(); err == nil && now.equal(t.state) {
		return false, nil
	}
	if err := t.put(*t.rules); err != nil {
		return false, err
	}
	return true, nil
}

// Remove takes the table away, whoever put it. It is no error if there is none.
func (t *Table) Remove() (was bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rules = nil
	c, err := t.conn()
	if err != nil {
		return false, fmt.Errorf("remove the table %s: %w", TableName, err)
	}
	c.DelTable(&nftables.Table{Name: TableName, Family: nftables.TableFamilyINet})
	err = c.Flush()
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("remove the table %s: %w", TableName, err)
	}
	return true, nil
}

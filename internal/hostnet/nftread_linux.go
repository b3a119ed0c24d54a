package hostnet

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// readNAT reads our table. A kernel without nftables has none.
func readNAT() (*NAT, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	defer conn.CloseLasting() //nolint:errcheck // only read from
	_, err = conn.ListTableOfFamily(natTable, nftables.TableFamilyINet)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read nftables table %s: %w", natTable, err)
	}
	return natOf(conn)
}

// A tableReader lists what the kernel's tables hold; *nftables.Conn is one.
type tableReader interface {
	ListChainsOfTableFamily(nftables.TableFamily) ([]*nftables.Chain, error)
	GetRules(*nftables.Table, *nftables.Chain) ([]*nftables.Rule, error)
	GetSets(*nftables.Table) ([]*nftables.Set, error)
	GetSetElements(*nftables.Set) ([]nftables.SetElement, error)
}

// natOf reads what our table does. Objects that cannot be decoded, such as of a type that we do not use, are not what we
// made. But what the kernel does not tell now says nothing of the table, and making it anew would help nobody.
func natOf(conn tableReader) (*NAT, error) {
	o, err := readObjects(conn)
	if errors.Is(err, errNotOurs) {
		return &NAT{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read nftables table %s: %w", natTable, err)
	}
	n := natFrom(o)
	return &n, nil
}

// errNotOurs says that our table has an object that we would not have made.
var errNotOurs = errors.New("an object that cannot be decoded")

// decoding marks the errors of decoding an object of our table.
func decoding(err error) error {
	if asked(err) {
		return err
	}
	return fmt.Errorf("%w: %w", errNotOurs, err)
}

// asked says whether an error is of asking the kernel and not of decoding its answer. The library passes on the error
// number of some calls; for others it leaves only its text, which starts with the step.
func asked(err error) bool {
	var number unix.Errno
	if errors.As(err, &number) {
		return true
	}
	return strings.HasPrefix(err.Error(), "SendMessages:") || strings.HasPrefix(err.Error(), "receiveAckAware:")
}

func readObjects(conn tableReader) (o natObjects, err error) {
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return o, fmt.Errorf("list chains: %w", err)
	}
	for _, c := range chains {
		if c.Table.Name != natTable {
			continue
		}
		rules, err := conn.GetRules(ourTable(), c)
		if err != nil {
			return o, fmt.Errorf("list rules of chain %s: %w", c.Name, decoding(err))
		}
		o.chains, o.rules = append(o.chains, c), append(o.rules, rules...)
	}
	sets, err := conn.GetSets(ourTable())
	if err != nil {
		return o, fmt.Errorf("list sets: %w", decoding(err))
	}
	for _, s := range sets {
		elements, err := conn.GetSetElements(s)
		if err != nil {
			return o, fmt.Errorf("list elements of set %s: %w", s.Name, decoding(err))
		}
		o.sets = append(o.sets, natSet{s, elements})
	}
	return o, nil
}

// natFrom is the NAT that has the objects, or an empty one if no NAT has just these.
func natFrom(o natObjects) NAT {
	var n NAT
	for _, s := range o.sets {
		prefixes := prefixesOf(s.elements)
		switch {
		case strings.HasPrefix(s.Name, setPods):
			n.Pods = append(n.Pods, prefixes...)
		case strings.HasPrefix(s.Name, setDirect):
			n.Direct = append(n.Direct, prefixes...)
		}
	}
	for _, r := range o.rules {
		if name, ok := uplinkOf(r.Exprs); ok {
			n.Uplinks = append(n.Uplinks, name)
		}
	}
	n.Pods, n.Direct = disjoint(n.Pods), disjoint(n.Direct)
	if !slices.Equal(n.objects().lines(), o.lines()) {
		return NAT{}
	}
	return n
}

func uplinkOf(exprs []expr.Any) (string, bool) {
	for i, e := range exprs[:max(len(exprs)-1, 0)] {
		if m, ok := e.(*expr.Meta); !ok || m.Key != expr.MetaKeyOIFNAME {
			continue
		}
		if c, ok := exprs[i+1].(*expr.Cmp); ok {
			return string(bytes.TrimRight(c.Data, "\x00")), true
		}
	}
	return "", false
}

// prefixesOf undoes intervals, in whatever order the kernel lists them. What is not a prefix is left out.
func prefixesOf(elements []nftables.SetElement) (prefixes []netip.Prefix) {
	elements = inOrder(elements)
	for i, e := range elements {
		start, ok := netip.AddrFromSlice(e.Key)
		if !ok || e.IntervalEnd {
			continue
		}
		var end netip.Addr
		if i+1 < len(elements) && elements[i+1].IntervalEnd {
			end, _ = netip.AddrFromSlice(elements[i+1].Key)
		}
		for bits := range start.BitLen() + 1 {
			if p := netip.PrefixFrom(start, bits); p == p.Masked() && after(p) == end {
				prefixes = append(prefixes, p)
				break
			}
		}
	}
	return prefixes
}

// inOrder sorts by address. Where one interval ends and the next starts, the end comes first.
func inOrder(elements []nftables.SetElement) []nftables.SetElement {
	return slices.SortedFunc(slices.Values(elements), func(a, b nftables.SetElement) int {
		if c := bytes.Compare(a.Key, b.Key); c != 0 || a.IntervalEnd == b.IntervalEnd {
			return c
		}
		if a.IntervalEnd {
			return -1
		}
		return 1
	})
}

// lines describe the objects so that equal lines mean equal effect.
func (o natObjects) lines() (lines []string) {
	for _, c := range slices.SortedFunc(slices.Values(o.chains), func(a, b *nftables.Chain) int { return cmp.Compare(a.Name, b.Name) }) {
		line := fmt.Sprintf("chain %s type %s", c.Name, c.Type)
		if c.Hooknum != nil && c.Priority != nil && c.Policy != nil {
			line += fmt.Sprintf(" hook %d priority %d policy %d", *c.Hooknum, *c.Priority, *c.Policy)
		}
		lines = append(lines, line)
		for _, r := range o.rules {
			if r.Chain.Name == c.Name {
				lines = append(lines, "rule "+exprLine(r.Exprs))
			}
		}
	}
	for _, s := range slices.SortedFunc(slices.Values(o.sets), func(a, b natSet) int { return cmp.Compare(a.Name, b.Name) }) {
		lines = append(lines, fmt.Sprintf("set %s of %s interval %t map %t timeout %t", s.Name, s.KeyType.Name, s.Interval, s.IsMap, s.HasTimeout))
		for _, e := range inOrder(s.elements) {
			lines = append(lines, fmt.Sprintf("element %x end %t", e.Key, e.IntervalEnd))
		}
	}
	return lines
}

// exprLine leaves out the numbers of sets, which the kernel does not keep.
func exprLine(exprs []expr.Any) string {
	texts := make([]string, len(exprs))
	for i, e := range exprs {
		if l, ok := e.(*expr.Lookup); ok {
			plain := *l
			plain.SetID = 0
			e = &plain
		}
		texts[i] = fmt.Sprintf("%T%+v", e, e)
	}
	return strings.Join(texts, " ")
}

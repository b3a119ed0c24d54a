package hostnet

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// A scriptedTable is a kernel with our table, some of whose lists fail.
type scriptedTable struct {
	chains, rules, sets, elements error
}

func (s scriptedTable) ListChainsOfTableFamily(nftables.TableFamily) ([]*nftables.Chain, error) {
	return theNAT().objects().chains, s.chains
}

func (s scriptedTable) GetRules(_ *nftables.Table, c *nftables.Chain) (rules []*nftables.Rule, err error) {
	for _, r := range theNAT().objects().rules {
		if r.Chain.Name == c.Name {
			rules = append(rules, r)
		}
	}
	return rules, s.rules
}

func (s scriptedTable) GetSets(*nftables.Table) (sets []*nftables.Set, err error) {
	for _, set := range theNAT().objects().sets {
		sets = append(sets, set.Set)
	}
	return sets, s.sets
}

func (s scriptedTable) GetSetElements(of *nftables.Set) (elements []nftables.SetElement, err error) {
	for _, set := range theNAT().objects().sets {
		if set.Name == of.Name {
			elements = set.elements
		}
	}
	return elements, s.elements
}

func theNAT() NAT {
	return NAT{Uplinks: []string{"eth0"}, Pods: prefixes("10.1.0.0/24"), Direct: prefixes("10.0.0.0/8")}
}

// Only what cannot be decoded in our own table is a change of it.
func TestReadFailuresAreNotChanges(t *testing.T) {
	receive := errors.New("receiveAckAware: " + unix.EINTR.Error()) // as the library words it
	decode := errors.New("could not determine data type")
	for name, tt := range map[string]struct {
		table scriptedTable
		fails bool
		want  NAT
	}{
		"all read":                 {want: theNAT()},
		"chains interrupted":       {table: scriptedTable{chains: unix.EINTR}, fails: true},
		"somebody's odd chain":     {table: scriptedTable{chains: decode}, fails: true},
		"rules not received":       {table: scriptedTable{rules: receive}, fails: true},
		"rules not decoded":        {table: scriptedTable{rules: decode}},
		"sets not sent":            {table: scriptedTable{sets: errors.New("SendMessages: broken")}, fails: true},
		"sets not decoded":         {table: scriptedTable{sets: decode}},
		"elements, no memory":      {table: scriptedTable{elements: fmt.Errorf("dial: %w", unix.ENOBUFS)}, fails: true},
		"elements of unknown type": {table: scriptedTable{elements: decode}},
	} {
		got, err := natOf(tt.table)
		if (err != nil) != tt.fails || !tt.fails && !got.equal(tt.want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

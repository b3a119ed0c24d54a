package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/internal/cluster"
)

// meaning is part of every id: it changes when equal content begins to mean something else.
const meaning = "nearpath policy 1\n"

// A namer makes ids from content. Who does not know the secret cannot make two contents with one id.
type namer struct{ secret [16]byte }

// id is never 0. The 64 bits are enough: with a million contents two share an id once in 37 million clusters.
func (n namer) id(content []byte) uint64 {
	h := sha256.New()
	h.Write([]byte(meaning))
	h.Write(n.secret[:])
	h.Write(content)
	return max(1, binary.LittleEndian.Uint64(h.Sum(nil)))
}

// compare puts Refs in order as Calico does with equal names: by namespace, then kind.
func (r Ref) compare(o Ref) int {
	return cmp.Or(strings.Compare(r.Name.Namespace, o.Name.Namespace), strings.Compare(r.Kind, o.Kind))
}

// key is equal for Pods that select the same by the same words.
func (p *Pods) key() string {
	if p == nil {
		return "-"
	}
	return fmt.Sprintf("%q/%s/%s", p.Namespace, selectorKey(p.Namespaces), selectorKey(p.Labels))
}

func selectorKey(s Selector) string {
	if s == nil {
		return "*"
	}
	return fmt.Sprintf("%q", s.String())
}

// key is equal for Peers that are the same by the same words, whatever order their lists are in.
func (p *Peer) key() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s!%s", p.Pods.key(), p.NotPods.key())
	texts := func(mark string, list []string) {
		slices.Sort(list)
		for _, text := range slices.Compact(list) {
			fmt.Fprintf(&b, "%s%s", mark, text)
		}
	}
	nets := make([]string, len(p.Nets))
	for i, net := range p.Nets {
		nets[i] = net.String()
	}
	except := make([]string, len(p.Except))
	for i, net := range p.Except {
		except[i] = net.String()
	}
	texts(" +", nets)
	texts(" -", except)
	if p.Nodes != nil {
		fmt.Fprintf(&b, " nodes %q", p.Nodes.String())
	}
	texts(" name ", slices.Clone(p.Domains))
	return b.String()
}

// nobody reports whether no address satisfies the Peer: nothing is set, or only what it is not.
func (p *Peer) nobody() bool {
	return !p.Any && p.Pods == nil && len(p.Nets) == 0 && p.Nodes == nil && len(p.Domains) == 0
}

// matches reports whether the pods with these properties are selected.
func (p *Pods) matches(pod Labelled, namespaceLabels map[string]string) bool {
	if p.Namespace != "" && p.Namespace != pod.Namespace {
		return false
	}
	if p.Namespaces != nil && !p.Namespaces.Matches(Labelled{Name: pod.Namespace, Labels: namespaceLabels}) {
		return false
	}
	return p.Labels == nil || p.Labels.Matches(pod)
}

func labelled(pod *cluster.PolicyPod) Labelled {
	return Labelled{Namespace: pod.Name.Namespace, Account: pod.ServiceAccount, Labels: pod.Labels}
}

package nodelocaldns

import (
	"hash/maphash"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
)

const (
	// maxNamed is how many endpoints of one Service have their own names in the kernel; of a Service with more, none has.
	maxNamed = 1000
	// maxAddresses keeps answers from being made that cannot fit.
	maxAddresses = 64
	// maxSRVTargets keeps answers from being made that are larger than what is held of a port.
	maxSRVTargets = 2
)

// An owner is what names come from: each name of the zone and each reverse name has one, whose change may change it.
type owner struct {
	kind ownerKind
	name cluster.Name // of a Service, of a namespace without Namespace
	addr netip.Addr   // of a reverse name
}

type ownerKind uint8

const (
	ownsZone ownerKind = iota
	ownsNamespace
	ownsService
	ownsReverse
)

// held is what the kernel holds about one type of a name, or of type 0 about the name itself.
type held struct {
	entry
	flags    bpf.NameFlags // of a name
	response []byte        // of a type
}

type entry struct {
	name  string // canonical
	qtype uint16
}

func (q entry) key() bpf.AnswerKey { return bpf.AnswerKey{Name: q.name, Type: q.qtype} }

// A planner knows what the kernel is to hold of a Snapshot. It has no state; it says the same of the same Snapshot always.
type planner struct {
	zone   Zone
	domain string // canonical
	// stored is the form in which the kernel holds a response; it fails for one that it cannot hold.
	stored func(bpf.AnswerKey, []byte) ([]byte, error)
	seed   maphash.Seed
}

func newPlanner(z Zone) planner {
	return planner{zone: z, domain: dns.CanonicalName(z.Domain), stored: bpf.StoredAnswer, seed: maphash.MakeSeed()}
}

// wanted is what the kernel is to hold of an owner's names, in an order in which it may be written: types before the name
// that denies the others, names below a name before it.
func (p planner) wanted(s *cluster.Snapshot, o owner) []held {
	switch o.kind {
	case ownsZone:
		return p.zoneNames(s)
	case ownsNamespace:
		return p.namespace(s, o.name.Name)
	case ownsService:
		return p.service(s, o.name)
	}
	return p.reverse(s, o.addr)
}

// all are the owners of a Snapshot.
func (p planner) all(s *cluster.Snapshot) []owner {
	t := p.between(cluster.NewStore().Snapshot(), s)
	t.fresh = true
	t.add(owner{kind: ownsZone})
	t.everything()
	return t.owners
}

// touched are the owners whose names may be different after the change, each once.
func (p planner) touched(before *cluster.Snapshot, change cluster.Change) []owner {
	t := p.between(before, change.Snapshot)
	if change.Full {
		t.everything()
		return t.owners
	}
	t.namespaces(slices.DeleteFunc(slices.Clone(change.Namespaces), func(ns string) bool {
		return before.HasNamespace(ns) == change.Snapshot.HasNamespace(ns) // it has other labels
	}))
	for _, name := range change.Services {
		t.service(name)
	}
	return t.owners
}

func (p planner) between(before, after *cluster.Snapshot) *touched {
	return &touched{planner: p, before: before, after: after, seen: map[owner]struct{}{}}
}

// touched collects owners.
type touched struct {
	planner
	before, after *cluster.Snapshot
	fresh         bool // before has nothing
	owners        []owner
	seen          map[owner]struct{}
}

func (t *touched) add(o owner) {
	if _, again := t.seen[o]; again {
		return
	}
	t.seen[o] = struct{}{}
	t.owners = append(t.owners, o)
}

// everything finds what is different: Snapshots share what is not.
func (t *touched) everything() {
	var moved []string
	for _, pair := range t.pairs() {
		for ns := range pair[0].Namespaces() {
			if !pair[1].HasNamespace(ns) {
				moved = append(moved, ns)
			}
		}
		for svc := range pair[0].Services() {
			if pair[1].Service(svc.Name) != svc || !slices.Equal(pair[0].Slices(svc.Name), pair[1].Slices(svc.Name)) {
				t.service(svc.Name)
			}
		}
	}
	t.namespaces(moved)
}

// pairs are both Snapshots with the other one.
func (t *touched) pairs() [2][2]*cluster.Snapshot {
	return [2][2]*cluster.Snapshot{{t.before, t.after}, {t.after, t.before}}
}

// namespaces touches the names of namespaces that have come or gone: without it none of its Services has any.
func (t *touched) namespaces(moved []string) {
	if len(moved) == 0 {
		return
	}
	is := map[string]bool{}
	for _, ns := range moved {
		is[ns] = true
		t.add(owner{kind: ownsNamespace, name: cluster.Name{Name: ns}})
	}
	for _, s := range []*cluster.Snapshot{t.before, t.after} {
		for svc := range s.Services() {
			if is[svc.Name.Namespace] {
				t.add(owner{kind: ownsService, name: svc.Name})
			}
		}
	}
}

func (t *touched) service(name cluster.Name) {
	t.add(owner{kind: ownsService, name: name})
	if name == t.zone.dnsService() {
		t.add(owner{kind: ownsZone})
	}
	moved := t.before.Service(name) != t.after.Service(name)
	for _, pair := range t.pairs() {
		if svc := pair[0].Service(name); svc != nil && moved {
			t.reverse(slices.Values(svc.ClusterIPs))
		}
		others := pair[1].Slices(name)
		for _, slice := range pair[0].Slices(name) {
			if moved || !slices.Contains(others, slice) {
				t.reverse(t.addrsOf(slice))
			}
		}
	}
}

// reverse touches those addresses whose reverse names the kernel holds or is to hold: what a Service without named endpoints
// adds to the names of an address counts, too.
func (t *touched) reverse(addrs iter.Seq[netip.Addr]) {
	for addr := range addrs {
		if hasReverse(t.before, addr) || hasReverse(t.after, addr) {
			t.add(owner{kind: ownsReverse, addr: addr})
		}
	}
}

// addrsOf are the addresses of a slice, of a fresh one those of named endpoints only: nothing is held of the others.
func (t *touched) addrsOf(slice *cluster.EndpointSlice) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for i := range slice.Endpoints {
			if e := &slice.Endpoints[i]; (!t.fresh || e.Hostname != "") && !yield(e.Addr) {
				return
			}
		}
	}
}

// hasReverse says whether the kernel is to hold the reverse name of an address: of a cluster IP, and of an endpoint with a
// name of its own. The others would cost more memory than all else.
func hasReverse(s *cluster.Snapshot, addr netip.Addr) bool {
	return s.ServiceByIP(addr) != nil || slices.ContainsFunc(s.EndpointsByIP(addr), func(e cluster.ServiceEndpoint) bool {
		return e.Endpoint.Hostname != "" && s.Service(e.Service) != nil
	})
}

// ask answers a question of the zone as userspace does.
func (p planner) ask(s *cluster.Snapshot, q entry, ready map[string][]target) Result {
	return p.zone.answerOf(s, dns.Question{Name: q.name, Qtype: q.qtype, Qclass: dns.ClassINET}, ready)
}

// pack is nil for what the kernel cannot hold.
func (p planner) pack(q entry, r Result) []byte {
	m := dns.Msg{
		MsgHdr:   dns.MsgHdr{Response: true, Rcode: r.Rcode, Authoritative: r.Authoritative},
		Compress: true,
		Question: []dns.Question{{Name: q.name, Qtype: q.qtype, Qclass: dns.ClassINET}},
		Answer:   r.Answer, Ns: r.Ns, Extra: r.Extra,
	}
	response, err := m.Pack()
	if err != nil {
		return nil
	}
	if response, err = p.stored(q.key(), response); err != nil {
		return nil
	}
	return response
}

// addressTypes are the types that nearly all questions are for.
var addressTypes = [...]struct {
	qtype uint16
	ask   bpf.NameFlags
}{{dns.TypeA, bpf.NameAskA}, {dns.TypeAAAA, bpf.NameAskAAAA}}

// crowded are the flags of a name with more addresses than can be held.
func crowded(targets []target) (flags bpf.NameFlags) {
	for _, t := range addressTypes {
		count := 0
		for i := range targets {
			if addressType(targets[i].addr) == t.qtype {
				count++
			}
		}
		if count > maxAddresses {
			flags |= bpf.NameAddresses | t.ask
		}
	}
	return flags
}

// named adds what is held of a name that has addresses, if it exists. SRV questions at such a name are rare, and their answers
// large: userspace has them.
func (p planner) named(to []held, s *cluster.Snapshot, name string, flags bpf.NameFlags, ready map[string][]target) []held {
	for _, t := range addressTypes {
		q := entry{name, t.qtype}
		if flags&t.ask != 0 {
			continue
		}
		r := p.ask(s, q, ready)
		switch {
		case r.Rcode != dns.RcodeSuccess:
			return to
		case r.Chase != "":
			return append(to, held{entry: entry{name: name}, flags: bpf.NameAskAll})
		case len(r.Answer) == 0:
			continue
		}
		flags |= bpf.NameAddresses
		if response := p.pack(q, r); response != nil {
			to = append(to, held{entry: q, response: response})
		} else {
			flags |= t.ask
		}
	}
	return append(to, held{entry: entry{name: name}, flags: flags | bpf.NameAskSRV})
}

// typed adds the one answer that is held of a name of which the kernel says nothing else.
func (p planner) typed(to []held, s *cluster.Snapshot, q entry) []held {
	r := p.ask(s, q, nil)
	if !r.Ours || r.Rcode != dns.RcodeSuccess || len(r.Answer) == 0 {
		return to
	}
	if response := p.pack(q, r); response != nil {
		to = append(to, held{entry: q, response: response})
	}
	return to
}

func (p planner) zoneNames(s *cluster.Snapshot) []held {
	out := p.named(nil, s, "ns.dns."+p.domain, 0, nil)
	version := entry{"dns-version." + p.domain, dns.TypeTXT}
	out = append(p.typed(out, s, version), held{entry: entry{name: version.name}})
	return append(out,
		held{entry: entry{name: "svc." + p.domain}},
		held{entry: entry{name: "pod." + p.domain}},
		held{entry: entry{name: p.domain}, flags: bpf.NameAskAll}) // NS has glue, and SOA a serial that changes all the time
}

func (p planner) namespace(s *cluster.Snapshot, ns string) []held {
	if !s.HasNamespace(ns) || !isLabel(ns) {
		return nil
	}
	return []held{{entry: entry{name: ns + ".svc." + p.domain}}}
}

func (p planner) service(s *cluster.Snapshot, name cluster.Name) []held {
	svc := s.Service(name)
	if svc == nil || !s.HasNamespace(name.Namespace) || !isLabel(name.Namespace) || !isLabel(name.Name) {
		return nil
	}
	host := serviceHost(name, p.domain)
	if svc.ExternalName != "" {
		return p.named(nil, s, host, 0, nil)
	}
	l := lookup{zone: p.zone, snapshot: s, domain: p.domain}
	anyReady, anyNamed := endpointKinds(svc, s.Slices(name))
	var ready map[string][]target
	if anyReady && (anyNamed || svc.Headless) {
		ready = byLabel(l.endpoints(svc, "", portFilter{}))
	}
	var out []held
	var flags bpf.NameFlags
	if anyReady {
		flags = bpf.NameAskBelow
	}
	if anyNamed {
		out, flags = p.below(s, svc, host, ready)
	}
	for _, q := range portNames(svc, s.Slices(name), host, len(ready[""])) {
		for _, h := range p.typed(nil, s, q) {
			if bpf.AnswerIsSmall(q.key(), h.response) { // large ones have other uses, and few ask for ports
				out = append(out, h)
			}
		}
	}
	if svc.Headless {
		flags |= crowded(ready[""])
	}
	return p.named(out, s, host, flags, ready)
}

// below are the names of endpoints that have a hostname. When those are all there are, the kernel may deny every other.
func (p planner) below(s *cluster.Snapshot, svc *cluster.Service, host string, ready map[string][]target) ([]held, bpf.NameFlags) {
	var labels []string
	for _, slice := range s.Slices(svc.Name) {
		for i := range slice.Endpoints {
			if e := &slice.Endpoints[i]; e.Hostname != "" && isReady(svc, e) {
				labels = append(labels, endpointLabel(e))
			}
		}
	}
	slices.Sort(labels)
	labels = slices.Compact(labels)
	if len(labels) > maxNamed || slices.ContainsFunc(labels, func(l string) bool { return !isLabel(l) }) {
		return nil, bpf.NameAskBelow
	}
	var out []held
	for _, label := range labels {
		out = p.named(out, s, label+"."+host, crowded(ready[label]), ready)
	}
	if len(labels) < len(ready)-1 { // which has "" besides
		return out, bpf.NameAskBelow
	}
	return out, 0
}

func (p planner) reverse(s *cluster.Snapshot, addr netip.Addr) []held {
	if !hasReverse(s, addr) {
		return nil
	}
	name, err := dns.ReverseAddr(addr.String())
	if err != nil {
		return nil
	}
	return p.typed(nil, s, entry{name, dns.TypePTR})
}

// endpointKinds says whether any endpoint is ready, and whether any such one has a hostname.
func endpointKinds(svc *cluster.Service, all []*cluster.EndpointSlice) (ready, named bool) {
	for _, slice := range all {
		for i := range slice.Endpoints {
			if e := &slice.Endpoints[i]; isReady(svc, e) {
				ready, named = true, named || e.Hostname != ""
			}
		}
	}
	return ready, named
}

func byLabel(all []target) map[string][]target {
	labels := map[string][]target{"": all}
	for _, t := range all {
		labels[t.label] = append(labels[t.label], t)
	}
	return labels
}

// portNames are the questions for named ports whose answers may be small.
func portNames(svc *cluster.Service, all []*cluster.EndpointSlice, host string, targets int) []entry {
	var names []string
	add := func(port string, protocol cluster.Protocol) {
		if port != "" && isLabel(strings.ToLower(port)) {
			names = append(names, "_"+strings.ToLower(port)+"._"+strings.ToLower(protocol.String())+"."+host)
		}
	}
	for _, p := range svc.Ports {
		add(p.Name, p.Protocol)
	}
	if svc.Headless {
		names = nil
		if targets > maxSRVTargets {
			return nil
		}
		for _, slice := range all {
			for _, p := range slice.Ports {
				add(p.Name, p.Protocol)
			}
		}
	}
	slices.Sort(names)
	questions := make([]entry, 0, len(names))
	for _, name := range slices.Compact(names) {
		questions = append(questions, entry{name, dns.TypeSRV})
	}
	return questions
}

// isLabel says that a text is one label of a canonical name that nothing has to be escaped in.
func isLabel(text string) bool {
	if len(text) == 0 || len(text) > 63 {
		return false
	}
	return strings.IndexFunc(text, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}) < 0
}

package externaldns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nearpath/nearpath/internal/cluster"
)

// The prefixes of annotations: external-dns has changed its own. The first one counts where an object has both.
const (
	prefixNow    = "external-dns.kubernetes.io/"
	prefixBefore = "external-dns.alpha.kubernetes.io/"
)

// controllerOurs is the value of the annotation controller that keeps an object; others hand it to somebody else.
const controllerOurs = "dns-controller"

// Reasons of Problems of objects.
const (
	reasonName     = "InvalidName"
	reasonValue    = "InvalidValue"
	reasonTTL      = "InvalidTTL"
	reasonSnapped  = "TTLAdjusted"
	reasonTemplate = "TemplateFailed"
	reasonType     = "UnsupportedType"
	reasonConflict = "NameConflict"
	reasonInternal = "InternalNotPublished"
	reasonUnknown  = "UnknownAnnotationValue"
)

// A wantKey is an object that asks for names, or one that others look at: all nodes have a key without a name.
type wantKey struct {
	kind cluster.Kind
	name cluster.Name
}

// asked is what one object asks for.
type asked struct {
	object   Object
	created  time.Time
	wants    []Want
	ptr      bool      // its addresses get PTR records
	needs    []wantKey // what was looked at besides the object
	problems []Problem
}

// An asker reads one object.
type asker struct {
	asked
	rules               *wantRules
	snapshot            *cluster.Snapshot
	source              Source
	labels, annotations map[string]string
	urgent              bool           // its addresses may soon be somebody else's
	ttl                 int            // 0: not read yet
	index               map[wantID]int // of wants
}

// A wantID tells the values at all names apart.
type wantID struct{ name, recordType, value string }

func (r *wantRules) asker(s *cluster.Snapshot, kind cluster.Kind, m cluster.Meta) *asker {
	source := r.kinds[kind]
	return &asker{
		asked: asked{
			object: Object{source.title, m.Name.Namespace, m.Name.Name, m.UID}, created: m.Created, ptr: r.PTR,
		},
		rules: r, snapshot: s, source: source.name, labels: m.Labels, annotations: m.Annotations,
	}
}

func (a *asker) problem(reason, format string, args ...any) {
	p := Problem{a.object, reason, fmt.Sprintf(format, args...)}
	if !slices.Contains(a.problems, p) {
		a.problems = append(a.problems, p)
	}
}

// need notes that the answer depends on another object.
func (a *asker) need(kind cluster.Kind, name cluster.Name) {
	if k := (wantKey{kind, name}); !slices.Contains(a.needs, k) {
		a.needs = append(a.needs, k)
	}
}

func annotationOf(annotations map[string]string, key string) (string, bool) {
	value, ok := annotations[prefixNow+key]
	if !ok {
		value, ok = annotations[prefixBefore+key]
	}
	return strings.TrimSpace(value), ok
}

func (a *asker) annotation(key string) string {
	value, _ := annotationOf(a.annotations, key)
	return value
}

// isOurs reports whether the annotation controller leaves the object to us.
func isOurs(annotations map[string]string) bool {
	value, ok := annotationOf(annotations, "controller")
	return !ok || value == controllerOurs
}

// admitted reports whether the object is to be published at all.
func (a *asker) admitted() bool {
	if !a.rules.admits(a.object.Namespace, a.labels) || !isOurs(a.annotations) {
		return false
	}
	if record, ok := annotationOf(a.annotations, "record-type"); ok {
		a.ptr = strings.EqualFold(record, typePTR)
	}
	return true
}

// names reads a list of names and leaves those that are good and in scope, each once.
func (a *asker) names(list []string, from string) (names []string) {
	for _, text := range list {
		name := canonicalName(text)
		switch err := checkWantName(name); {
		case err != nil:
			a.problem(reasonName, "%s: %q is not a name that can be published: %v", from, text, err)
		case a.rules.inScope(name) && !slices.Contains(names, name):
			names = append(names, name)
		}
	}
	return names
}

// annotated are the names that an annotation lists.
func (a *asker) annotated(key string) []string {
	value := a.annotation(key)
	if value == "" {
		return nil
	}
	return a.names(splitNames(value), "annotation "+key)
}

// templated are the names from templates, for an object that asks for names itself or not.
func (a *asker) templated(asks bool) []string {
	if len(a.rules.templates) == 0 || asks && !a.rules.Combine {
		return nil
	}
	names, err := namesFrom(a.rules.templates, TemplateFields{
		Kind: a.object.Kind, Namespace: a.object.Namespace, Name: a.object.Name, Labels: a.labels, Annotations: a.annotations, source: a.source,
	})
	if err != nil {
		a.problem(reasonTemplate, "%v", err)
	}
	return a.names(names, "template")
}

// asks reports whether the object has an annotation that asks for names, good or not.
func (a *asker) asks(keys ...string) bool {
	return slices.ContainsFunc(keys, func(key string) bool { return a.annotation(key) != "" })
}

// seconds is the TTL of the object's records.
func (a *asker) seconds() int {
	if a.ttl != 0 {
		return a.ttl
	}
	a.ttl = a.rules.TTL
	text, ok := annotationOf(a.annotations, "ttl")
	if !ok {
		return a.ttl
	}
	seconds, err := parseTTL(text)
	if err != nil {
		a.problem(reasonTTL, "annotation ttl: %v; %d s is used", err, a.ttl)
		return a.ttl
	}
	a.ttl = a.snap(seconds, "annotation ttl")
	return a.ttl
}

func (a *asker) snap(seconds int64, from string) int {
	ttl, exact := snapTTL(seconds)
	if !exact {
		a.problem(reasonSnapped, "%s: PrivateZone does not take %d s, %d s is used; write one of %v", from, seconds, ttl, acceptedTTLs())
	}
	return ttl
}

// want adds a record, once.
func (a *asker) want(name, recordType, value string) {
	a.wantFor(name, recordType, value, a.seconds())
}

func (a *asker) wantFor(name, recordType, value string, ttl int) {
	if recordType == typeCNAME && value == name {
		a.problem(reasonValue, "%s cannot be a CNAME of itself", name)
		return
	}
	id := wantID{name, recordType, value}
	if i, ok := a.index[id]; ok {
		a.wants[i].TTL = min(a.wants[i].TTL, ttl)
		return
	}
	if a.index == nil {
		a.index = make(map[wantID]int)
	}
	a.index[id] = len(a.wants)
	a.wants = append(a.wants, Want{
		Name: name, Type: recordType, Value: value, TTL: ttl, Object: a.object, Urgent: a.urgent && isAddress(recordType),
	})
}

// lead makes names lead to addresses.
func (a *asker) lead(names []string, addrs []netip.Addr) {
	for _, addr := range addrs {
		recordType, value, err := addressValue(addr)
		if err != nil {
			if len(names) > 0 {
				a.problem(reasonValue, "%s cannot be published: %v", addr, err)
			}
			continue
		}
		for _, name := range names {
			a.want(name, recordType, value)
		}
	}
}

// leadTo makes names lead to targets, addresses or names.
func (a *asker) leadTo(names, targets []string, from string) {
	for _, target := range targets {
		recordType, value, err := targetValue(target)
		if err != nil {
			if len(names) > 0 {
				a.problem(reasonValue, "%s: %q cannot be published: %v", from, target, err)
			}
			continue
		}
		for _, name := range names {
			a.want(name, recordType, value)
		}
	}
}

// leadToTargets does so with the annotation target, if the object has it.
func (a *asker) leadToTargets(names []string) bool {
	targets := splitNames(a.annotation("target"))
	a.leadTo(names, targets, "annotation target")
	return len(targets) > 0
}

// leadToBalancer makes names lead to where the object is reached from outside.
func (a *asker) leadToBalancer(names []string, at cluster.LoadBalancer) {
	a.lead(names, at.Addrs)
	a.leadTo(names, at.Hostnames, "status.loadBalancer")
}

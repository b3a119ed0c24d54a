package externaldns

import (
	"fmt"
	"iter"
)

// An Object is what a record is published for: the object users see an Event on.
type Object struct {
	Kind, Namespace, Name, UID string
}

// String prints the object as kind/namespace/name, without the namespace where it has none. The
// UID is left out: an object made anew under its old name keeps its records.
func (o Object) String() string {
	if o.Namespace == "" {
		return o.Kind + "/" + o.Name
	}
	return o.Kind + "/" + o.Namespace + "/" + o.Name
}

// A Want is one value that a name shall have. PrivateZone keeps one record per value, so a Want
// is exactly one record there.
type Want struct {
	// Name is the full name, in lower case, without the final dot. A wildcard starts with "*.".
	Name string
	// Type is a record type of PrivateZone: A, AAAA, CNAME, TXT, SRV or PTR.
	Type string
	// Value is written as PrivateZone shows it: names in lower case without the final dot, addresses
	// as netip prints them, an SRV value as "priority weight port target".
	Value string
	// TTL is in seconds and one of those that PrivateZone accepts.
	TTL int
	// Object is what the record is published for.
	Object Object
	// Urgent says that what this name loses must go before anything else: the address of a pod that
	// is gone may be given to another pod.
	Urgent bool
}

// String prints the Want as a line of a zone file.
func (w Want) String() string {
	return fmt.Sprintf("%s %d %s %s", w.Name, w.TTL, w.Type, w.Value)
}

// Desired is what shall be published. The zone's side reads it whenever a name was touched, from
// one goroutine that may differ from the writer's: implementations are safe for concurrent use.
type Desired interface {
	// For returns the Wants of one name, empty when nothing is wanted there.
	For(name string) []Want
	// All returns every name with its Wants.
	All() iter.Seq2[string, []Want]
}

// A Problem is something that keeps an object from being published as asked. It becomes an Event
// on the object and a count by reason.
type Problem struct {
	Object Object
	// Reason is a constant in CamelCase, as the reason of an Event.
	Reason string
	// Message names the field or value and what would mend it.
	Message string
}

// String prints the problem with its object.
func (p Problem) String() string { return p.Object.String() + ": " + p.Reason + ": " + p.Message }

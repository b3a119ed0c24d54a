package cluster

import (
	"iter"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A DNSEndpoint is an externaldns.k8s.io/v1alpha1 DNSEndpoint: records asked for outright. Nothing in it has been checked.
// It is immutable once it is in a Snapshot.
type DNSEndpoint struct {
	Meta
	Records []RecordSet
}

// A RecordSet is one entry of spec.endpoints.
type RecordSet struct {
	Name    string   `json:"dnsName"`
	Type    string   `json:"recordType"`
	TTL     int64    `json:"recordTTL"` // in seconds, 0 for none
	Targets []string `json:"targets"`
}

func (d *DNSEndpoint) equal(o *DNSEndpoint) bool {
	return d.Meta.equal(&o.Meta) && slices.EqualFunc(d.Records, o.Records, RecordSet.equal)
}

func (r RecordSet) equal(o RecordSet) bool {
	return r.Name == o.Name && r.Type == o.Type && r.TTL == o.TTL && slices.Equal(r.Targets, o.Targets)
}

// dnsEndpoint is as much of the API's type as is read.
type dnsEndpoint struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Endpoints []*RecordSet `json:"endpoints"`
	} `json:"spec"`
}

func dnsEndpointFrom(in *dnsEndpoint) (*DNSEndpoint, error) {
	out := &DNSEndpoint{Meta: metaFrom(in)}
	for _, r := range in.Spec.Endpoints {
		if r != nil { // the API's schema allows null
			out.Records = append(out.Records, *r)
		}
	}
	return out, nil
}

// DNSEndpoint returns the object of that name, nil when there is none or DNSEndpoints are not read.
func (s *Snapshot) DNSEndpoint(name Name) *DNSEndpoint {
	endpoint, _ := s.endpoints.get(name)
	return endpoint
}

// DNSEndpoints yields every DNSEndpoint, in no particular order.
func (s *Snapshot) DNSEndpoints() iter.Seq[*DNSEndpoint] { return values(s.endpoints) }

// PutDNSEndpoint adds a DNSEndpoint or replaces the one of that name.
func (e *Edit) PutDNSEndpoint(endpoint *DNSEndpoint) {
	putObject(e, &e.next.endpoints, DNSEndpoints, endpoint)
}

// DeleteDNSEndpoint removes a DNSEndpoint.
func (e *Edit) DeleteDNSEndpoint(name Name) { deleteObject(e, &e.next.endpoints, DNSEndpoints, name) }

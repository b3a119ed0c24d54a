package kubeapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

// A Kind is a kind of objects that the server has.
type Kind struct {
	Group, Version, Kind string
	Resource             string // the kind's name in paths
	Namespaced           bool
}

func (k Kind) groupVersion() string { return strings.TrimPrefix(k.Group+"/"+k.Version, "/") }

// builtin are the kinds that are always there.
func builtin() []Kind {
	return []Kind{
		{"", "v1", "Service", "services", true},
		{"", "v1", "Pod", "pods", true},
		{"", "v1", "Node", "nodes", false},
		{"", "v1", "Namespace", "namespaces", false},
		{"", "v1", "Event", "events", true},
		{"discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", true},
		{"networking.k8s.io", "v1", "Ingress", "ingresses", true},
		{"coordination.k8s.io", "v1", "Lease", "leases", true},
	}
}

// A Server is the API, an http.Handler. Its methods are safe for concurrent use.
type Server struct {
	mu       sync.Mutex // guards what follows
	revision int
	kinds    []*objects
	refuses  func(verb, resource string) bool
	refused  int
}

// objects are those of one kind.
type objects struct {
	Kind
	all map[string]json.RawMessage // by "namespace/name"
	log []change                   // everything that ever happened
	// more is closed when there is more, and ended when whoever watches shall not any more.
	more, ended chan struct{}
}

// A change is an entry of a watch.
type change struct {
	revision int
	what     string // ADDED, MODIFIED, DELETED
	object   json.RawMessage
}

// New returns a server without objects, of the usual kinds and of others.
func New(others ...Kind) *Server {
	s := &Server{refuses: func(string, string) bool { return false }}
	for _, k := range append(builtin(), others...) {
		s.kinds = append(s.kinds, &objects{Kind: k, all: map[string]json.RawMessage{}, more: make(chan struct{}), ended: make(chan struct{})})
	}
	return s
}

// Refuse says which requests are answered with 403 from now on: those of which the function says so, of a verb as RBAC
// calls it and a resource such as pods. Watches end. nil: none.
func (s *Server) Refuse(of func(verb, resource string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if of == nil {
		of = func(string, string) bool { return false }
	}
	s.refuses = of
	for _, o := range s.kinds {
		close(o.ended)
		o.ended = make(chan struct{})
	}
}

// Refused counts the requests that were refused.
func (s *Server) Refused() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}

var errKind = errors.New("the server has no such kind")

// Put adds objects, or replaces those of the same names. Those that Kubernetes itself knows need no kind in them.
func (s *Server) Put(list ...runtime.Object) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, object := range list {
		gvk := object.GetObjectKind().GroupVersionKind()
		if gvk.Empty() {
			kinds, _, err := scheme.Scheme.ObjectKinds(object)
			if err != nil {
				return fmt.Errorf("put an object: %w", err)
			}
			gvk = kinds[0]
		}
		at := slices.IndexFunc(s.kinds, func(o *objects) bool { return o.Kind.Kind == gvk.Kind && o.Group == gvk.Group })
		if at < 0 {
			return fmt.Errorf("put a %s: %w", gvk, errKind)
		}
		if _, err := s.store(s.kinds[at], object); err != nil {
			return err
		}
	}
	return nil
}

// Delete removes an object; none is no error. Kinds without namespaces have the empty one.
func (s *Server) Delete(kind, namespace, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := slices.IndexFunc(s.kinds, func(o *objects) bool { return o.Kind.Kind == kind })
	if at < 0 {
		return fmt.Errorf("delete a %s: %w", kind, errKind)
	}
	s.remove(s.kinds[at], namespace+"/"+name)
	return nil
}

// All returns the objects of a kind as JSON, sorted by namespace and name.
func (s *Server) All(kind string) (list []json.RawMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.kinds {
		if o.Kind.Kind == kind {
			list = o.sorted()
		}
	}
	return list
}

// sorted returns the objects by namespace and name.
func (o *objects) sorted() (list []json.RawMessage) {
	for _, key := range slices.Sorted(maps.Keys(o.all)) {
		list = append(list, o.all[key])
	}
	return list
}

// store puts an object under the next revision. The caller holds the lock.
func (s *Server) store(o *objects, object runtime.Object) (json.RawMessage, error) {
	about, err := meta.Accessor(object)
	if err != nil {
		return nil, fmt.Errorf("put an object: %w", err)
	}
	s.revision++
	about.SetResourceVersion(strconv.Itoa(s.revision))
	object.GetObjectKind().SetGroupVersionKind(o.gvk())
	text, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("put %s %s/%s: %w", o.Kind.Kind, about.GetNamespace(), about.GetName(), err)
	}
	key, what := about.GetNamespace()+"/"+about.GetName(), "ADDED"
	if o.all[key] != nil {
		what = "MODIFIED"
	}
	o.all[key] = text
	s.note(o, what, text)
	return text, nil
}

// remove deletes an object. The caller holds the lock.
func (s *Server) remove(o *objects, key string) {
	text := o.all[key]
	if text == nil {
		return
	}
	s.revision++
	delete(o.all, key)
	// A watcher goes on from the revision of what it has seen last.
	var object map[string]any
	if json.Unmarshal(text, &object) == nil {
		if about, ok := object["metadata"].(map[string]any); ok {
			about["resourceVersion"] = strconv.Itoa(s.revision)
		}
		if newer, err := json.Marshal(object); err == nil {
			text = newer
		}
	}
	s.note(o, "DELETED", text)
}

func (s *Server) note(o *objects, what string, text json.RawMessage) {
	o.log = append(o.log, change{s.revision, what, text})
	close(o.more)
	o.more = make(chan struct{})
}

// status answers with an error.
func status(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	answer(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Reason: reason, Message: message, Code: int32(code),
	})
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // a client that is gone needs no answer
}

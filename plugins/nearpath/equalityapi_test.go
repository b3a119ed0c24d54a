package nearpath

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// An apiObject is a Service, an EndpointSlice or a namespace.
type apiObject interface {
	runtime.Object
	metav1.Object
}

// An apiServer is as much of a Kubernetes API as whoever serves DNS needs: lists and watches of Services, EndpointSlices and
// namespaces, of whatever else there is none.
type apiServer struct {
	url string

	mu      sync.Mutex // guards the rest
	version int
	objects map[string]map[string]apiObject // by resource, then by namespace and name
	watches map[chan watchEvent]string      // the resource each is of
}

type watchEvent struct {
	Type   string         `json:"type"`
	Object runtime.Object `json:"object"`
}

func startAPIServer(t *testing.T) *apiServer {
	t.Helper()
	s := &apiServer{objects: map[string]map[string]apiObject{}, watches: map[chan watchEvent]string{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.CloseClientConnections)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func kindOf(resource string) schema.GroupVersionKind {
	switch resource {
	case "services":
		return corev1.SchemeGroupVersion.WithKind("Service")
	case "namespaces":
		return corev1.SchemeGroupVersion.WithKind("Namespace")
	case "endpointslices":
		return discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice")
	case "nodes":
		return corev1.SchemeGroupVersion.WithKind("Node")
	}
	return corev1.SchemeGroupVersion.WithKind("Pod")
}

func resourceOf(o apiObject) string {
	switch o.(type) {
	case *corev1.Service:
		return "services"
	case *corev1.Namespace:
		return "namespaces"
	}
	return "endpointslices"
}

// become makes the objects of the API those, and tells who watches.
func (s *apiServer) become(objects []apiObject) {
	s.mu.Lock()
	defer s.mu.Unlock()
	want := map[string]map[string]apiObject{"services": {}, "namespaces": {}, "endpointslices": {}}
	for _, o := range objects {
		want[resourceOf(o)][o.GetNamespace()+"/"+o.GetName()] = o
	}
	for resource, objects := range want {
		for key, o := range objects {
			s.put(resource, key, o)
		}
		for key, o := range s.objects[resource] {
			if _, stays := objects[key]; !stays {
				delete(s.objects[resource], key)
				s.tell(resource, "DELETED", o)
			}
		}
	}
}

// put is for a caller that holds mu.
func (s *apiServer) put(resource, key string, o apiObject) {
	if s.objects[resource] == nil {
		s.objects[resource] = map[string]apiObject{}
	}
	event := "ADDED"
	if old, ok := s.objects[resource][key]; ok {
		event = "MODIFIED"
		o.SetResourceVersion(old.GetResourceVersion())
	}
	o.GetObjectKind().SetGroupVersionKind(kindOf(resource))
	s.objects[resource][key] = o
	s.tell(resource, event, o)
}

// tell is for a caller that holds mu.
func (s *apiServer) tell(resource, event string, o apiObject) {
	s.version++
	o.SetResourceVersion(fmt.Sprint(s.version))
	for watch, of := range s.watches {
		if of == resource {
			watch <- watchEvent{event, o.DeepCopyObject()}
		}
	}
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(r.URL.Path, "/")
	resource := parts[len(parts)-1]
	query := r.URL.Query()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case strings.HasSuffix(r.URL.Path, "/networking.k8s.io/v1"): // discovery: nothing that may be missing is there
		http.NotFound(w, r)
	case query.Get("watch") != "" && query.Get("sendInitialEvents") == "":
		s.watch(w, r, resource, false)
	case query.Get("watch") != "":
		s.watch(w, r, resource, true)
	default:
		s.list(w, resource)
	}
}

func (s *apiServer) list(w http.ResponseWriter, resource string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []apiObject{}
	for _, o := range s.objects[resource] {
		items = append(items, o)
	}
	kind := kindOf(resource)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"apiVersion": kind.GroupVersion().String(), "kind": kind.Kind + "List",
		"metadata": map[string]string{"resourceVersion": fmt.Sprint(s.version)}, "items": items,
	})
}

// watch sends what comes; with the objects that are there before if initial (KEP-3157).
func (s *apiServer) watch(w http.ResponseWriter, r *http.Request, resource string, initial bool) {
	events := make(chan watchEvent, 10_000)
	s.mu.Lock()
	if initial {
		for _, o := range s.objects[resource] {
			events <- watchEvent{"ADDED", o.DeepCopyObject()}
		}
		mark := &metav1.PartialObjectMetadata{}
		mark.SetGroupVersionKind(kindOf(resource))
		mark.SetResourceVersion(fmt.Sprint(s.version))
		mark.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
		events <- watchEvent{"BOOKMARK", mark}
	}
	s.watches[events] = resource
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watches, events)
	}()
	w.(http.Flusher).Flush()
	encoder := json.NewEncoder(w)
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-events:
			if encoder.Encode(e) != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	}
}

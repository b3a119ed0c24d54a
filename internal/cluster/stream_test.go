package cluster

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// A streamServer sends initial lists as events of a watch, as API servers do that are asked to (KEP-3157).
type streamServer struct {
	lists  map[string][]runtime.Object // by the end of the path
	later  chan string                 // of pods: an event as JSON
	listed chan string
}

func (s *streamServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/networking.k8s.io/v1") { // discovery: nothing that may be missing is there
		http.NotFound(w, r)
		return
	}
	if r.URL.Query().Get("sendInitialEvents") != "true" {
		s.listed <- r.URL.String()
		http.Error(w, "not asked to stream", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	parts := strings.Split(r.URL.Path, "/")
	resource := parts[len(parts)-1]
	for _, object := range s.lists[resource] {
		body, _ := json.Marshal(object)
		fmt.Fprintf(w, `{"type":"ADDED","object":%s}`, body)
	}
	fmt.Fprintf(w, `{"type":"BOOKMARK","object":{"apiVersion":%q,"kind":%q,"metadata":{"resourceVersion":"9","annotations":{%q:"true"}}}}`,
		map[bool]string{true: "discovery.k8s.io/v1", false: "v1"}[resource == "endpointslices"],
		map[string]string{"pods": "Pod", "services": "Service", "namespaces": "Namespace", "nodes": "Node", "endpointslices": "EndpointSlice"}[resource],
		metav1.InitialEventsAnnotationKey)
	w.(http.Flusher).Flush()
	later := s.later
	if resource != "pods" {
		later = nil
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case event := <-later:
			fmt.Fprint(w, event)
			w.(http.Flusher).Flush()
		}
	}
}

// typed gives an object the header it has on the wire.
func typed(object runtime.Object, version, kind string) runtime.Object {
	object.GetObjectKind().SetGroupVersionKind(schema.FromAPIVersionAndKind(version, kind))
	return object
}

func TestAPISourceStreamsLists(t *testing.T) {
	t.Parallel()
	for name, publish := range map[string][]Kind{"for a node": nil, "for publishing": {Services, Namespaces, Pods}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			handler := &streamServer{later: make(chan string), listed: make(chan string, 100), lists: map[string][]runtime.Object{
				"pods":           {typed(apiPod("web-0", "10.0.0.5"), "v1", kindPod), typed(apiPod("web-1", "x"), "v1", kindPod)},
				"services":       {typed(apiService("web", "10.96.0.7"), "v1", kindService)},
				"endpointslices": {typed(apiSlice("web-1", "web", "10.0.0.5"), discoveryv1.SchemeGroupVersion.String(), kindSlice)},
				"namespaces":     {typed(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, "v1", kindNamespace)},
			}}
			handler.lists["pods"] = append(handler.lists["pods"], typed(apiPod("web-2", ""), "v1", kindPod))
			server := httptest.NewServer(handler)
			t.Cleanup(server.Close)
			config := APIConfig{REST: &rest.Config{Host: server.URL}, Store: NewStore(), NodeName: testNode, Publish: publish, Log: slog.New(slog.DiscardHandler)}
			if publish != nil {
				config.NodeName = ""
			}
			config.Store.Update(func(e *Edit) { e.PutPod(&Pod{Name: Name{"shop", "gone"}}); e.PutPod(&Pod{Name: Name{"shop", "web-1"}}) })
			source, err := NewAPISource(config)
			if err != nil {
				t.Fatal(err)
			}
			defer run(t, source)()
			<-source.Ready()
			s := config.Store.Snapshot()
			if s.Pod(Name{"shop", "web-0"}) == nil || s.Service(Name{"shop", "web"}) == nil || len(s.Slices(Name{"shop", "web"})) != 1 || !s.HasNamespace("shop") {
				t.Error("an object that was streamed is missing")
			}
			if s.Pod(Name{"shop", "gone"}) != nil {
				t.Error("an object stays that was not streamed")
			}
			if s.Pod(Name{"shop", "web-1"}) == nil {
				t.Error("the last good state of a refused object is gone")
			}
			body, _ := json.Marshal(handler.lists["pods"][0])
			handler.later <- fmt.Sprintf(`{"type":"DELETED","object":%s}`, body)
			waitFor(t, config.Store, "a deletion", func(s *Snapshot) bool { return s.Pod(Name{"shop", "web-0"}) == nil })
			select {
			case url := <-handler.listed:
				t.Errorf("listed besides: %s", url)
			default:
			}
		})
	}
}

package kubeapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
)

func (k Kind) gvk() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Kind}
}

// A request is what a path and its method ask for.
type request struct {
	*objects
	verb            string // as RBAC calls it
	namespace, name string
}

// ServeHTTP serves the API.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if s.discover(w, parts) {
		return
	}
	q, ok := s.find(r, parts)
	if !ok {
		status(w, http.StatusNotFound, metav1.StatusReasonNotFound, r.URL.Path+" is not served")
		return
	}
	s.mu.Lock()
	refused, ended := s.refuses(q.verb, q.Resource), q.ended
	if refused {
		s.refused++
	}
	s.mu.Unlock()
	if refused {
		status(w, http.StatusForbidden, metav1.StatusReasonForbidden, fmt.Sprintf("%s is forbidden: cannot %s it", q.Resource, q.verb))
		return
	}
	switch q.verb {
	case "list":
		s.list(w, q)
	case "watch":
		s.watch(w, r, q, ended)
	case "get":
		s.get(w, q)
	case "delete":
		s.mu.Lock()
		s.remove(q.objects, q.namespace+"/"+q.name)
		s.mu.Unlock()
		answer(w, http.StatusOK, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess})
	default:
		s.write(w, r, q)
	}
}

// find reads /api/v1/[namespaces/NS/]RESOURCE[/NAME[/SUB]], and the like below /apis/GROUP.
func (s *Server) find(r *http.Request, parts []string) (q request, ok bool) {
	group := ""
	if parts[0] == "apis" && len(parts) > 1 {
		group, parts = parts[1], parts[1:]
	}
	if len(parts) < 3 {
		return q, false
	}
	if parts = parts[2:]; parts[0] == "namespaces" && len(parts) > 2 {
		q.namespace, parts = parts[1], parts[2:]
	}
	if len(parts) > 1 {
		q.name = parts[1]
	}
	s.mu.Lock()
	at := slices.IndexFunc(s.kinds, func(o *objects) bool { return o.Group == group && o.Resource == parts[0] })
	s.mu.Unlock()
	if at < 0 {
		return q, false
	}
	q.objects = s.kinds[at]
	q.verb = map[string]string{
		http.MethodGet: "list", http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete",
	}[r.Method]
	switch {
	case r.URL.Query().Get("watch") == "true" || r.URL.Query().Get("watch") == "1":
		q.verb = "watch"
	case q.verb == "list" && q.name != "":
		q.verb = "get"
	}
	return q, q.verb != ""
}

func (s *Server) get(w http.ResponseWriter, q request) {
	s.mu.Lock()
	object := q.all[q.namespace+"/"+q.name]
	s.mu.Unlock()
	if object == nil {
		status(w, http.StatusNotFound, metav1.StatusReasonNotFound, fmt.Sprintf("%s %q not found", q.Resource, q.name))
		return
	}
	answer(w, http.StatusOK, object)
}

// write creates, replaces or patches an object.
func (s *Server) write(w http.ResponseWriter, r *http.Request, q request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client is gone
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.verb == "patch" {
		if body, err = merged(q.all[q.namespace+"/"+q.name], body); err != nil {
			status(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
			return
		}
	}
	object, err := decode(body)
	if err != nil {
		status(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
		return
	}
	about, err := meta.Accessor(object)
	if err != nil {
		status(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
		return
	}
	if q.namespace != "" {
		about.SetNamespace(q.namespace)
	}
	there := q.all[about.GetNamespace()+"/"+about.GetName()]
	switch {
	case q.verb == "create" && there != nil:
		status(w, http.StatusConflict, metav1.StatusReasonAlreadyExists, about.GetName()+" already exists")
		return
	case q.verb != "create" && there == nil:
		status(w, http.StatusNotFound, metav1.StatusReasonNotFound, about.GetName()+" not found")
		return
	case q.verb == "update" && about.GetResourceVersion() != "" && about.GetResourceVersion() != versionOf(there):
		status(w, http.StatusConflict, metav1.StatusReasonConflict, about.GetName()+" has been changed")
		return
	}
	text, err := s.store(q.objects, object)
	if err != nil {
		status(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, err.Error())
		return
	}
	answer(w, http.StatusOK, text)
}

// decode reads an object as JSON, or as what Kubernetes' own kinds are sent as besides.
func decode(body []byte) (runtime.Object, error) {
	object, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err == nil {
		return object, nil
	}
	custom := &unstructured.Unstructured{}
	if jsonErr := custom.UnmarshalJSON(body); jsonErr != nil {
		return nil, err
	}
	return custom, nil
}

func versionOf(object json.RawMessage) string {
	var o metav1.PartialObjectMetadata
	_ = json.Unmarshal(object, &o) // what is stored was written by us
	return o.ResourceVersion
}

// merged applies a merge patch (RFC 7386).
func merged(object, patch []byte) ([]byte, error) {
	var have, change any
	if object != nil {
		if err := json.Unmarshal(object, &have); err != nil {
			return nil, err
		}
	}
	if err := json.Unmarshal(patch, &change); err != nil {
		return nil, err
	}
	return json.Marshal(merge(have, change))
}

func merge(have, change any) any {
	fields, ok := change.(map[string]any)
	if !ok {
		return change
	}
	object, ok := have.(map[string]any)
	if !ok {
		object = map[string]any{}
	}
	for name, value := range fields {
		if value == nil {
			delete(object, name)
			continue
		}
		object[name] = merge(object[name], value)
	}
	return object
}

// discover answers what clients ask to find out which kinds there are.
func (s *Server) discover(w http.ResponseWriter, parts []string) bool {
	path := strings.Join(parts, "/")
	if path == "version" {
		answer(w, http.StatusOK, map[string]string{"major": "1", "minor": "36", "gitVersion": "v1.36.0"})
		return true
	}
	if path == "api" {
		answer(w, http.StatusOK, metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions", APIVersion: "v1"}, Versions: []string{"v1"}})
		return true
	}
	groups := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
	list := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}}
	for _, o := range s.kinds {
		version := metav1.GroupVersionForDiscovery{GroupVersion: o.groupVersion(), Version: o.Version}
		if o.Group != "" {
			groups.Groups = append(groups.Groups, metav1.APIGroup{Name: o.Group, Versions: []metav1.GroupVersionForDiscovery{version}, PreferredVersion: version})
		}
		if path == "apis/"+o.groupVersion() || o.Group == "" && path == "api/v1" {
			list.GroupVersion = o.groupVersion()
			list.APIResources = append(list.APIResources, metav1.APIResource{
				Name: o.Resource, Kind: o.Kind.Kind, Namespaced: o.Namespaced, Verbs: metav1.Verbs{"get", "list", "watch", "create", "update", "patch", "delete"},
			})
		}
	}
	switch {
	case path == "apis":
		answer(w, http.StatusOK, groups)
	case list.GroupVersion != "":
		answer(w, http.StatusOK, list)
	default:
		return false
	}
	return true
}

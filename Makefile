PY := .venv/bin/python

.PHONY: stubs
stubs:
	$(PY) -m grpc_tools.protoc -Iproto -I$$($(PY) -c "import google.rpc, os; print(os.path.dirname(os.path.dirname(list(google.rpc.__path__)[0])))") \
	    --python_out=. --pyi_out=. --grpc_python_out=. proto/eagerly/v1/*.proto

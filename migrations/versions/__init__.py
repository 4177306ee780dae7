"""The history of the schema. Alembic loads the modules beside this one by path."""

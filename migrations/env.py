"""What Alembic runs: the history, on the connection that `migrations.history` or a developer's command opened."""

from alembic import context

from migrations.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
